//go:build !linux

package tunnel

import "net"

// unsent is not known here.
func unsent(net.Conn) int { return -1 }

// limitUnsent does nothing here.
func limitUnsent(net.Conn) {}

// wasReset is not known here.
func wasReset(net.Conn) bool { return false }
