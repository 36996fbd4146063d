// Package relay is the embedded STUN and TURN server: it tells a peer from which address its packets come,
// and lends those that have no path an address of its own.
//
//	          UDP                 STUN: binding requests
//	client ─────────> STUN ──┬──────────────────────────
//	          TCP, TLS       └──> TURN ── allocation ── peer
//	client ─────────> Serve, Share ─┘        │
//	                                     allocation ── client of the same relay
//
// STUN answers binding requests (RFC 8489 section 6.3) over UDP and nothing else. Since a source address
// can be forged, what it sends is no larger than what any STUN server must: a header and one
// XOR-MAPPED-ADDRESS, 32 bytes for IPv4 and 44 for IPv6, to a request of 20 bytes or more; to the source
// only, and only so many a second. There is no alternate server and no RESPONSE-PORT. Of CHANGE-REQUEST
// (RFC 5780) a server that is one of a [Pair] does what needs no second address: it answers from the
// other one's port, so that a client learns how its NAT filters.
//
// TURN (RFC 8656) takes time-limited credentials, keeps nothing for those who have none, holds everybody
// to a quota, and relays to nothing that is not public unless it is told to. It offers UDP relayed
// addresses of both families over UDP, TCP and TLS.
//
// Errors: [ErrSecret].
package relay

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

// The parts of STUN that a binding request and its response consist of.
//
//	 0                   1                   2                   3
//	+-------------------+-------------------+---------------------------------------+
//	|0 0| message type  | length after 20   | magic cookie                          |
//	+-------------------+-------------------+---------------------------------------+
//	| transaction id, 96 bits ...                                                   |
//	+-------------------------------------------------------------------------------+
//	| attributes: type 16, length 16, value padded to 4 bytes ...                   |
const (
	headerBytes     = 20
	magicCookie     = 0x2112A442
	bindingRequest  = 0x0001
	bindingSuccess  = 0x0101
	bindingFailure  = 0x0111
	xorMapped       = 0x0020
	errorCode       = 0x0009
	unknownAttrs    = 0x000A
	fingerprint     = 0x8028
	fingerprintXOR  = 0x5354554e
	changeRequest   = 0x0003 // RFC 5780 section 7.2
	changePort      = 0x02
	maxRequestBytes = 1500   // padded ones (RFC 5780 section 7.6) tell a client the MTU of its path
	maxAnswer       = 256    // the largest of TURN's
	maxResponse     = 44     // the largest of our responses, to an IPv6 source
	maxUnknown      = 6      // attributes named in an error response, which then has 44 bytes too
	comprehension   = 0x8000 // attributes from here on may be ignored
)

// known are the attributes below comprehension that a client may send and that change nothing here:
// USERNAME, MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256, PRIORITY, USE-CANDIDATE and PADDING. Nobody
// checks them: a response to a binding request without credentials is what the client gets.
func known(attr uint16) bool {
	switch attr {
	case 0x0006, 0x0008, 0x001C, 0x0024, 0x0025, 0x0026:
		return true
	}
	return false
}

// respond appends the response to a packet from an address to dst, which must not overlap it. It
// returns dst as it was if there is nothing to answer.
func respond(dst, packet []byte, from netip.AddrPort) []byte {
	dst, _ = respondPaired(dst, packet, from, false)
	return dst
}

// respondPaired is respond for a server that may be paired. other says that the response is to leave from
// the other server's port. To another address nothing is changed: that is error 420, which says so.
func respondPaired(dst, packet []byte, from netip.AddrPort, paired bool) (_ []byte, other bool) {
	if len(packet) < headerBytes || len(packet) > maxRequestBytes || len(packet)%4 != 0 || !from.IsValid() {
		return dst, false
	}
	if binary.BigEndian.Uint16(packet) != bindingRequest ||
		int(binary.BigEndian.Uint16(packet[2:])) != len(packet)-headerBytes ||
		binary.BigEndian.Uint32(packet[4:]) != magicCookie {
		return dst, false
	}
	var unknown [maxUnknown]uint16
	n := 0
	for at := headerBytes; at < len(packet); {
		if len(packet)-at < 4 {
			return dst, false
		}
		attr := binary.BigEndian.Uint16(packet[at:])
		size := int(binary.BigEndian.Uint16(packet[at+2:]))
		end := at + 4 + (size+3)&^3
		if end > len(packet) {
			return dst, false
		}
		switch {
		case attr == fingerprint:
			// It is the last one, over everything before it (section 14.7).
			if size != 4 || end != len(packet) ||
				binary.BigEndian.Uint32(packet[at+4:]) != crc32.ChecksumIEEE(packet[:at])^fingerprintXOR {
				return dst, false
			}
		case attr == changeRequest && paired && size == 4 && binary.BigEndian.Uint32(packet[at+4:])&^changePort == 0:
			other = packet[at+7] != 0
		case attr < comprehension && !known(attr) && n < maxUnknown:
			unknown[n] = attr
			n++
		}
		at = end
	}
	if n > 0 {
		return refuse(dst, packet, unknown[:n]), false
	}
	return succeed(dst, packet, from), other
}

// isBinding says whether a packet is none for a TURN server.
func isBinding(b []byte) bool { return len(b) >= 2 && binary.BigEndian.Uint16(b) == bindingRequest }

// succeed appends a response with the address that the packet came from.
func succeed(dst, packet []byte, from netip.AddrPort) []byte {
	addr := from.Addr().Unmap()
	family, raw := byte(1), addr.AsSlice()
	if len(raw) == 16 {
		family = 2
	}
	dst = header(dst, packet, bindingSuccess, 8+len(raw))
	dst = binary.BigEndian.AppendUint16(dst, xorMapped)
	dst = binary.BigEndian.AppendUint16(dst, uint16(4+len(raw)))
	dst = append(dst, 0, family)
	dst = binary.BigEndian.AppendUint16(dst, from.Port()^(magicCookie>>16))
	for i, b := range raw { // the mask is the cookie and the transaction id (section 14.2)
		dst = append(dst, b^packet[4+i])
	}
	return dst
}

// refuse appends error 420 with the attributes that were not understood (section 6.3.1), and no phrase.
func refuse(dst, packet []byte, unknown []uint16) []byte {
	dst = header(dst, packet, bindingFailure, 8+4+(2*len(unknown)+3)&^3)
	dst = binary.BigEndian.AppendUint16(dst, errorCode)
	dst = append(dst, 0, 4, 0, 0, 4, 20)
	dst = binary.BigEndian.AppendUint16(dst, unknownAttrs)
	dst = binary.BigEndian.AppendUint16(dst, uint16(2*len(unknown)))
	for _, attr := range unknown {
		dst = binary.BigEndian.AppendUint16(dst, attr)
	}
	if len(unknown)%2 != 0 {
		dst = append(dst, 0, 0)
	}
	return dst
}

func header(dst, packet []byte, kind uint16, size int) []byte {
	dst = binary.BigEndian.AppendUint16(dst, kind)
	dst = binary.BigEndian.AppendUint16(dst, uint16(size))
	return append(dst, packet[4:headerBytes]...)
}
