package signal

import (
	"encoding/binary"
	"net/netip"
)

// A NAT is what a peer found out about the one in front of it, for the other side to know whether plain
// connectivity checks can be enough, and what would help where they are not. See docs/nat.md.
type NAT struct {
	Mapping   uint8          // 0 unknown, 1 none, 2 endpoint-independent, 3 endpoint-dependent (RFC 4787 §4.1)
	Preserved bool           // the first mapping has the port of the socket
	Burst     bool           // the peer takes part in bursts of checks, if they are needed
	Step      int16          // from one new mapping's port to the next one's; 0: no pattern is known
	Last      netip.AddrPort // the newest mapping, IPv4; only with a Step
}

const (
	natMapping   = 0x03
	natPreserved = 0x04
	natBurst     = 0x08

	natShort, natLong = 1, 9
)

// append appends the value of the field, which is empty for the zero value.
//
//	 0                                                 1           3              7        9
//	| bits 0-1 mapping, bit 2 preserved, bit 3 burst | step, i16 | last, IPv4   | port   |
//	                                                  \____________ only with a step ____/
func (n NAT) append(dst []byte) []byte {
	head := n.Mapping & natMapping
	if n.Preserved {
		head |= natPreserved
	}
	if n.Burst {
		head |= natBurst
	}
	last := n.Last.Addr().Unmap()
	switch {
	case n.Step != 0 && last.Is4() && n.Last.Port() != 0:
		dst = append(dst, head)
		dst = binary.BigEndian.AppendUint16(dst, uint16(n.Step))
		dst = append(dst, last.AsSlice()...)
		return binary.BigEndian.AppendUint16(dst, n.Last.Port())
	case head != 0:
		return append(dst, head)
	}
	return dst
}

// parseNAT reads what append wrote. What a later version may have added is left aside, and what makes no
// sense is nothing: a peer whose NAT is unknown can be met all the same.
func parseNAT(b []byte) NAT {
	if len(b) < natShort {
		return NAT{}
	}
	n := NAT{Mapping: b[0] & natMapping, Preserved: b[0]&natPreserved != 0, Burst: b[0]&natBurst != 0}
	if len(b) < natLong {
		return n
	}
	step, port := int16(binary.BigEndian.Uint16(b[1:])), binary.BigEndian.Uint16(b[7:])
	addr, _ := netip.AddrFromSlice(b[3:7])
	if step != 0 && port != 0 && !addr.IsUnspecified() && !addr.IsMulticast() {
		n.Step, n.Last = step, netip.AddrPortFrom(addr, port)
	}
	return n
}
