package control

import (
	"net"

	"golang.org/x/sys/unix"
)

// clientUID asks the kernel for the user at the other end (SO_PEERCRED, unix(7)).
func clientUID(c *net.UnixConn) (uid int, known bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil || err != nil {
		return -1, true // nobody who may
	}
	return int(cred.Uid), true
}
