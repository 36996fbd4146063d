//go:build darwin || freebsd

package control

import (
	"net"

	"golang.org/x/sys/unix"
)

// clientUID asks the kernel for the user at the other end (LOCAL_PEERCRED, unix(4)).
func clientUID(c *net.UnixConn) (uid int, known bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	var cred *unix.Xucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	}); cerr != nil || err != nil {
		return -1, true // nobody who may
	}
	return int(cred.Uid), true
}
