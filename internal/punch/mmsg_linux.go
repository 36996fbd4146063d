package punch

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// A mmsghdr is one message of sendmmsg(2) and recvmmsg(2). Package x/net has both calls, but it
// allocates an address for each message.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32 // bytes sent or received
}

// sendmmsg returns how many messages left. An error concerns the first that did not, and is told only
// if that is the first of all.
func sendmmsg(fd uintptr, m []mmsghdr) (int, error) {
	return mmsg(unix.SYS_SENDMMSG, fd, m)
}

// recvmmsg returns how many messages came; it does not wait.
func recvmmsg(fd uintptr, m []mmsghdr) (int, error) {
	return mmsg(unix.SYS_RECVMMSG, fd, m)
}

func mmsg(trap, fd uintptr, m []mmsghdr) (int, error) {
	for {
		n, _, errno := unix.Syscall6(trap, fd, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
