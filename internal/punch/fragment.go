//go:build linux || darwin || freebsd || windows

package punch

import "net"

// setOption reports whether an option of a socket could be set.
func setOption(c *net.UDPConn, set func(fd uintptr) error) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	err = raw.Control(func(fd uintptr) { ok = set(fd) == nil })
	return err == nil && ok
}
