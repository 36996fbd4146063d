//go:build unix

package tunnel

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// seeEnd waits until c ends, and reads nothing. It returns endNone at c's read deadline, or if there is no way to see.
// It does not return for the end of the input where that of both directions would be told.
func seeEnd(c net.Conn) (seen end) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return endNone
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return endBoth // closed
	}
	input := !pollTells || c.LocalAddr().Network() != "unix"
	fds := []unix.PollFd{{Events: unix.POLLIN | pollEndInput}}
	// The runtime's poller wakes this up for all that comes.
	err = raw.Read(func(fd uintptr) bool {
		fds[0].Fd = int32(fd)
		if n, err := unix.Poll(fds, 0); n <= 0 || err != nil {
			return err != nil && !errors.Is(err, unix.EINTR)
		}
		switch got := fds[0].Revents; {
		case got&pollEndBoth != 0:
			seen = endBoth
		case !input:
		case got&pollEndInput != 0:
			seen = endInput
		default:
			seen = peekEnd(int(fd))
		}
		return seen != endNone
	})
	if err != nil && errors.Is(err, net.ErrClosed) {
		return endBoth
	}
	return seen
}

// peekEnd tells whether the next read of fd would say that it has ended.
func peekEnd(fd int) end {
	var one [1]byte
	n, _, err := unix.Recvfrom(fd, one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case err == nil && n == 0:
		return endInput
	case err == nil, errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return endNone
	}
	return endBoth
}
