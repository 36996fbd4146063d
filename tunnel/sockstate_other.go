//go:build !linux

package tunnel

import "net"

// unsent is not known here.
func unsent(net.Conn) int { return -1 }

// wasReset is not known here.
func wasReset(net.Conn) bool { return false }
