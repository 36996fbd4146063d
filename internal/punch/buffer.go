package punch

import "net"

// leastBuffer is less than the default of any system.
const leastBuffer = 32 << 10

// setBuffers asks for socket buffers of size bytes, for less where the system refuses so much, and
// returns the receive buffer that it granted in the end: what the system holds datagrams against, by
// its own way of counting.
func setBuffers(c *net.UDPConn, size int) int {
	raw, err := c.SyscallConn()
	if err != nil {
		return leastBuffer
	}
	granted := 0
	_ = raw.Control(func(fd uintptr) { // fails only when closed
		for n := size; n >= leastBuffer && setSendBuffer(fd, n) != nil; n -= n / 4 {
		}
		for n := size; n >= leastBuffer && setReceiveBuffer(fd, n) != nil; n -= n / 4 {
		}
		if n, err := receiveBuffer(fd); err == nil {
			granted = n
		}
	})
	return max(granted, leastBuffer)
}
