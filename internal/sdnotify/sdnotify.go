// Package sdnotify tells systemd how a service does, in the protocol of sd_notify(3): datagrams with
// lines of NAME=value to the socket that $NOTIFY_SOCKET names. Without that variable nothing is sent and
// nothing fails. Its methods may be called from any goroutine.
//
// Windows has no such sockets, and there the variable is not looked at.
package sdnotify

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// A Notifier speaks for this process. A nil one says nothing.
type Notifier struct {
	to       *net.UnixAddr
	watchdog time.Duration
}

// New returns a notifier as the environment wants it, nil if no service manager listens. It takes the
// variables out of the environment, as sd_notify(3) does for its children's sake, who are not the service.
func New() *Notifier {
	name := os.Getenv("NOTIFY_SOCKET")
	usec, pid := os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID")
	if runtime.GOOS == "windows" || len(name) < 2 || name[0] != '/' && name[0] != '@' {
		return nil // vsock: is for virtual machines
	}
	for _, v := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(v) // fails for bad names only
	}
	n := &Notifier{to: &net.UnixAddr{Name: name, Net: "unixgram"}}
	if us, err := strconv.ParseInt(usec, 10, 64); err == nil && us > 0 && us <= int64(24*time.Hour/time.Microsecond) {
		if pid == "" || pid == strconv.Itoa(os.Getpid()) {
			n.watchdog = time.Duration(us) * time.Microsecond
		}
	}
	return n
}

// Watchdog returns the time within which the manager wants to hear Alive again, 0 if it does not.
func (n *Notifier) Watchdog() time.Duration {
	if n == nil {
		return 0
	}
	return n.watchdog
}

// Ready tells that the service does what it is for, and what that is now.
func (n *Notifier) Ready(status string) error { return n.send("READY=1", "STATUS="+status) }

// Status tells what the service does now, in a line for people.
func (n *Notifier) Status(status string) error { return n.send("STATUS=" + status) }

// Alive tells that the service does not hang.
func (n *Notifier) Alive() error { return n.send("WATCHDOG=1") }

// Stopping tells that the service ends.
func (n *Notifier) Stopping() error { return n.send("STOPPING=1") }

// send sends one datagram.
func (n *Notifier) send(lines ...string) error {
	if n == nil {
		return nil
	}
	for i, l := range lines {
		lines[i] = strings.ReplaceAll(l, "\n", " ") // a line is an assignment
	}
	c, err := net.DialUnix("unixgram", nil, n.to)
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer c.Close()
	_ = c.SetWriteDeadline(time.Now().Add(time.Second)) // a manager that does not read must not stop the service
	if _, err := c.Write([]byte(strings.Join(lines, "\n") + "\n")); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}
