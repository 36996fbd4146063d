//go:build !linux

package tunnel

import "syscall"

// private does nothing here: the socket's mode is changed once it has a name.
func private(string, string, syscall.RawConn) error { return nil }
