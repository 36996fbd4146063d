//go:build !linux && !darwin && !freebsd && !windows

package punch

import "net"

// dontFragment cannot be had here.
func dontFragment(*net.UDPConn, bool) bool { return false }
