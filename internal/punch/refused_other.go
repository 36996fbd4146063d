//go:build !linux

package punch

import "net/netip"

// watchErrors reports that wildcard sockets of this system are not told of ICMP errors.
func (b *batch) watchErrors(bool) bool { return false }

func (b *batch) errors(func(to netip.AddrPort, head []byte)) {}
