//go:build !linux

package punch

import "net"

// setBuffers asks for socket buffers of size bytes, less where the system refuses so much, and
// returns how many bytes of receive buffer it granted.
func setBuffers(c *net.UDPConn, size int) int {
	for n := size; n >= 64<<10; n /= 2 {
		if c.SetWriteBuffer(n) == nil {
			break
		}
	}
	for n := size; n >= 64<<10; n /= 2 {
		if c.SetReadBuffer(n) == nil {
			return n
		}
	}
	return 32 << 10 // less than the default of any system
}
