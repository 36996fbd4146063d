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
	"net/netip"

	"adit/internal/stunmsg"
)

const (
	maxRequestBytes = 1500 // padded ones (RFC 5780 section 7.6) tell a client the MTU of its path
	maxAnswer       = 256  // the largest of TURN's
	maxResponse     = 44   // the largest of our responses, to an IPv6 source
	maxUnknown      = 6    // attributes named in an error response, which then has 44 bytes too
)

// known reports whether an attribute that must be understood is one that a client may send and that changes
// nothing here. Nobody checks credentials: a response to a binding request without any is what the client gets.
func known(attr uint16) bool {
	switch attr {
	case stunmsg.Username, stunmsg.MessageIntegrity, stunmsg.MessageIntegritySHA256, stunmsg.Priority, stunmsg.UseCandidate, stunmsg.Padding:
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
	if len(packet) > maxRequestBytes || !from.IsValid() || !isBinding(packet) {
		return dst, false
	}
	_, id, ok := stunmsg.Parse(packet)
	if !ok {
		return dst, false
	}
	var unknown [maxUnknown]uint16
	n := 0
	for a := range stunmsg.Attrs(packet) {
		switch {
		case a.Type == stunmsg.Fingerprint:
			if !stunmsg.Fingerprinted(packet, a) {
				return dst, false
			}
		case a.Type == stunmsg.ChangeRequest && paired && len(a.Value) == 4 && binary.BigEndian.Uint32(a.Value)&^stunmsg.ChangePort == 0:
			other = a.Value[3] != 0
		case a.Type < stunmsg.Optional && !known(a.Type) && n < maxUnknown:
			unknown[n] = a.Type
			n++
		}
	}
	if n > 0 {
		return refuse(dst, id, unknown[:n]), false
	}
	start := len(dst)
	dst = stunmsg.AppendHeader(dst, stunmsg.BindingSuccess, id)
	dst = stunmsg.AppendXORAddress(dst, stunmsg.XORMappedAddress, from, id)
	stunmsg.Finish(dst[start:])
	return dst, other
}

// isBinding says whether a packet is none for a TURN server.
func isBinding(b []byte) bool {
	return len(b) >= 2 && binary.BigEndian.Uint16(b) == stunmsg.BindingRequest
}

// refuse appends error 420 with the attributes that were not understood (RFC 8489 section 6.3.1), and no phrase.
func refuse(dst []byte, id stunmsg.ID, unknown []uint16) []byte {
	r := reply{stunmsg.AppendHeader(dst, stunmsg.BindingError, id), id}
	r.fail(codeUnknownAttribute)
	r.unknown(unknown)
	stunmsg.Finish(r.b[len(dst):])
	return r.b
}
