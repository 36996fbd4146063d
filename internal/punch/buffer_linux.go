package punch

import (
	"net"

	"golang.org/x/sys/unix"
)

// setBuffers asks for socket buffers of size bytes and returns how many bytes of receive buffer the
// kernel granted. SO_RCVBUFFORCE passes net.core.rmem_max but needs CAP_NET_ADMIN.
func setBuffers(c *net.UDPConn, size int) int {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	granted := 0
	_ = raw.Control(func(fd uintptr) { // fails only when closed
		s := int(fd)
		if unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
			_ = unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_RCVBUF, size) // what the system allows
		}
		if unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size) != nil {
			_ = unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_SNDBUF, size) // what the system allows
		}
		if n, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_RCVBUF); err == nil {
			granted = n / 2 // socket(7): the kernel doubles the value for its own bookkeeping
		}
	})
	return granted
}
