//go:build linux || darwin || freebsd

package control

import "net"

// clientUID asks the kernel for the user at the other end of a socket. One that it does not tell is -1: nobody
// who may.
func clientUID(c *net.UnixConn) (uid int, known bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, true
	}
	if cerr := raw.Control(func(fd uintptr) { uid, err = socketUID(int(fd)) }); cerr != nil || err != nil {
		return -1, true
	}
	return uid, true
}
