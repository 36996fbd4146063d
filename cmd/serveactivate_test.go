//go:build unix

package cmd

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestPassedSocket(t *testing.T) {
	dup := func(l interface{ File() (*os.File, error) }) uintptr {
		t.Helper()
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fd, err := syscall.Dup(int(f.Fd())) // passed closes it
		if err != nil {
			t.Fatal(err)
		}
		return uintptr(fd)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	pid := strconv.Itoa(os.Getpid())
	l, err := passed(pid, "1", dup(tcp.(*net.TCPListener)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got, want := l.Addr().String(), tcp.Addr().String(); got != want {
		t.Errorf("listens at %s, want %s", got, want)
	}
	_ = tcp.Close() // the socket goes on
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("after its first owner has closed it: %v", err)
	}
	c.Close()

	unix, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	if _, err := passed(pid, "1", dup(unix.(*net.UnixListener))); err == nil || !strings.Contains(err.Error(), "want a TCP port") {
		t.Errorf("a unix socket: got %v", err)
	}
	for _, env := range [][2]string{{"", ""}, {pid, "0"}, {pid, "x"}, {"1", "1"}} {
		if _, err := passed(env[0], env[1], 3); err == nil {
			t.Errorf("LISTEN_PID=%s LISTEN_FDS=%s: no error", env[0], env[1])
		}
	}
}
