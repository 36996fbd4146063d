//go:build unix

package tunnel

import (
	"net"

	"golang.org/x/sys/unix"
)

// waitReadable returns a function that waits until c has something to read, or an error.
func waitReadable(c *net.UDPConn) func() error {
	raw, err := c.SyscallConn()
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
