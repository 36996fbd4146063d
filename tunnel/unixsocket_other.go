//go:build !linux

package tunnel

import (
	"net"
	"syscall"
)

// private does nothing here: the socket's mode is changed once it has a name.
func private(string, string, syscall.RawConn) error { return nil }

// ownPeer is asked about abstract sockets, which there are none of.
func ownPeer(net.Conn) bool { return false }
