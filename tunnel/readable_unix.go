//go:build unix

package tunnel

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// waitReadable returns a function that waits until c has something to read, its end included, or an error; for what is
// no socket, one that does not wait.
func waitReadable(c net.Conn) func() error {
	s, ok := c.(syscall.Conn)
	if !ok {
		return func() error { return nil }
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return func() error { return err }
	}
	fds := []unix.PollFd{{Events: unix.POLLIN}}
	// The runtime's poller tells of what comes after a read found nothing, so what is there is asked for first.
	ready := func(fd uintptr) bool {
		fds[0].Fd = int32(fd)
		n, err := unix.Poll(fds, 0)
		return err != nil || n > 0
	}
	return func() error { return raw.Read(ready) }
}
