package cmd

import (
	"adit/internal/fail"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
)

// activated is the value of --http that takes the socket which systemd listens at. Connections wait there while the
// server is started again.
const activated = "systemd"

// firstPassed is the descriptor of the first socket that systemd passes (sd_listen_fds(3)).
const firstPassed = 3

// listenHTTP listens at an address, or takes the socket that systemd passed to this process.
func listenHTTP(addr string) (net.Listener, error) {
	if addr != activated {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, cannotListen(err, "stop what else uses the port, or choose another with --http")
		}
		return l, nil
	}
	l, err := passed(os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), firstPassed)
	if err != nil {
		return nil, fail.Usagef("start adit by a socket unit, as docs/rendezvous.md shows, or give an address", "--http systemd: %v", err)
	}
	return l, nil
}

// passed returns the listener of the first socket that was passed to the process with that id.
func passed(pid, count string, fd uintptr) (net.Listener, error) {
	n, err := strconv.Atoi(count)
	if pid != strconv.Itoa(os.Getpid()) || err != nil || n < 1 {
		return nil, errors.New("systemd has passed no socket to this process")
	}
	f := os.NewFile(fd, "the socket of systemd")
	if f == nil {
		return nil, errors.New("what systemd has passed is no file")
	}
	defer f.Close() // the listener has its own
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listen at the socket of systemd: %v", err)
	}
	if _, ok := l.Addr().(*net.TCPAddr); !ok {
		_ = l.Close() // it cannot be used
		return nil, fmt.Errorf("the socket of systemd is of %s, want a TCP port", l.Addr().Network())
	}
	return l, nil
}
