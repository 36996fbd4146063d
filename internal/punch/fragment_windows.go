package punch

import (
	"net"

	"golang.org/x/sys/windows"
)

// Of ws2ipdef.h; x/sys has neither.
const (
	ipDontFragment = 14
	ipv6DontFrag   = 14
)

// dontFragment makes the system send each datagram whole or not at all and reports whether that
// worked.
func dontFragment(c *net.UDPConn, v6 bool) bool {
	level, name := windows.IPPROTO_IP, ipDontFragment
	if v6 {
		level, name = windows.IPPROTO_IPV6, ipv6DontFrag
	}
	return setOption(c, func(fd uintptr) error {
		return windows.SetsockoptInt(windows.Handle(fd), level, name, 1)
	})
}
