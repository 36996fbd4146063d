package punch

import (
	"net"

	"golang.org/x/sys/unix"
)

// dontFragment makes the system send each datagram whole or not at all, whatever it was told of the
// path's MTU by ICMP, which may be forged or missing (RFC 8899 §4.1), and reports whether that worked.
// What is larger than the interface's own MTU is refused with EMSGSIZE.
func dontFragment(c *net.UDPConn, v6 bool) bool {
	level, name, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
	if v6 {
		level, name, value = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
	}
	return setOption(c, func(fd uintptr) error { return unix.SetsockoptInt(int(fd), level, name, value) })
}
