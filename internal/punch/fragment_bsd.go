//go:build darwin || freebsd

package punch

import (
	"net"

	"golang.org/x/sys/unix"
)

// dontFragment makes the system send each datagram whole or not at all and reports whether that
// worked.
func dontFragment(c *net.UDPConn, v6 bool) bool {
	level, name := unix.IPPROTO_IP, unix.IP_DONTFRAG
	if v6 {
		level, name = unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG
	}
	return setOption(c, func(fd uintptr) error { return unix.SetsockoptInt(int(fd), level, name, 1) })
}
