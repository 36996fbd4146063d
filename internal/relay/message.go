package relay

import (
	"crypto/sha1"
	"encoding/binary"
	"net/netip"
	"time"

	"adit/internal/stunmsg"
)

// Methods and classes (RFC 8656 section 17, RFC 8489 section 5): together the type of a message.
const (
	methodAllocate         = 0x003
	methodRefresh          = 0x004
	methodSend             = 0x006
	methodData             = 0x007
	methodCreatePermission = 0x008
	methodChannelBind      = 0x009

	classRequest    = 0x000
	classIndication = 0x010
	classSuccess    = 0x100
	classFailure    = 0x110
	classBits       = 0x110
)

// Attributes of TURN (RFC 8656 section 18); those of STUN are in package stunmsg.
const (
	attrChannelNumber   = 0x000C
	attrLifetime        = 0x000D
	attrPeerAddress     = 0x0012
	attrData            = 0x0013
	attrRelayedAddress  = 0x0016
	attrRequestedFamily = 0x0017
	attrEvenPort        = 0x0018
	attrTransport       = 0x0019
	attrReservation     = 0x0022
)

// Error codes.
const (
	codeBadRequest       = 400
	codeUnauthorized     = 401
	codeForbidden        = 403
	codeUnknownAttribute = 420
	codeMismatch         = 437
	codeStaleNonce       = 438
	codeFamily           = 440
	codeWrongCredentials = 441
	codeTransport        = 442
	codePeerFamily       = 443
	codeQuota            = 486
	codeCapacity         = 508
)

const (
	protocolUDP = 17

	maxPeerAttrs = 16 // addresses in one CreatePermission request
)

// A message is a request or an indication of a client. The slices are parts of the packet.
type message struct {
	method uint16
	class  uint16
	id     stunmsg.ID

	username, realm, nonce []byte // nil if missing
	integrityAt            int    // where MESSAGE-INTEGRITY begins, 0 if it is missing

	lifetime    time.Duration
	hasLifetime bool
	channel     uint16 // 0 if missing
	peers       [maxPeerAttrs]netip.AddrPort
	npeers      int
	data        []byte
	hasData     bool
	transport   byte // 0 if missing
	family      byte // 0 if missing
	evenPort    bool
	reserve     bool // EVEN-PORT's R, or a RESERVATION-TOKEN: not offered here
	bad         bool // an attribute does not have its form

	unknown  [maxUnknown]uint16 // comprehension-required attributes not known here
	nunknown int
}

// parse reads a STUN message that fills b. What comes after MESSAGE-INTEGRITY does not count, for nobody
// vouches for it.
func parse(b []byte, m *message) bool {
	kind, id, ok := stunmsg.Parse(b)
	if !ok {
		return false
	}
	*m = message{method: kind &^ classBits, class: kind & classBits, id: id}
	for a := range stunmsg.Attrs(b) {
		switch {
		case a.Type == stunmsg.Fingerprint:
			if !stunmsg.Fingerprinted(b, a) {
				return false
			}
		case m.integrityAt != 0:
		case a.Type == stunmsg.MessageIntegrity:
			m.bad = m.bad || len(a.Value) != sha1.Size
			m.integrityAt = a.At
		default:
			m.attribute(a.Type, a.Value)
		}
	}
	return true
}

func (m *message) attribute(attr uint16, v []byte) {
	fits := func(n int) bool {
		m.bad = m.bad || len(v) != n
		return len(v) == n
	}
	switch attr {
	case stunmsg.Username:
		m.username = v
	case stunmsg.Realm:
		m.realm = v
	case stunmsg.Nonce:
		m.nonce = v
	case attrLifetime:
		if fits(4) {
			m.lifetime, m.hasLifetime = time.Duration(binary.BigEndian.Uint32(v))*time.Second, true
		}
	case attrChannelNumber:
		if fits(4) {
			m.channel = binary.BigEndian.Uint16(v)
		}
	case attrTransport:
		if fits(4) {
			m.transport = v[0]
		}
	case attrRequestedFamily:
		if fits(4) {
			m.family = v[0]
			if v[0] == 0 {
				m.family = 0xFF // there, and none that exists
			}
		}
	case attrEvenPort:
		if fits(1) {
			m.evenPort, m.reserve = true, m.reserve || v[0]&0x80 != 0
		}
	case attrReservation:
		m.reserve = true
	case attrPeerAddress:
		peer, ok := stunmsg.XORAddress(v, m.id)
		if !ok || m.npeers == len(m.peers) {
			m.bad = true
			return
		}
		m.peers[m.npeers] = peer
		m.npeers++
	case attrData:
		m.data, m.hasData = v, true
	case stunmsg.MessageIntegritySHA256, stunmsg.PasswordAlgorithm:
		// Our nonces do not offer them (RFC 8489 section 9.2.1): a client that uses them gets no further.
	default:
		if attr < stunmsg.Optional && m.nunknown < maxUnknown {
			m.unknown[m.nunknown] = attr
			m.nunknown++
		}
	}
}

// A reply is a message being written.
type reply struct {
	b  []byte
	id stunmsg.ID
}

// answer begins the response to m in dst[:0].
func answer(dst []byte, m *message, class uint16) reply {
	return reply{stunmsg.AppendHeader(dst[:0], m.method|class, m.id), m.id}
}

func (r *reply) attr(attr uint16, v []byte) { r.b = stunmsg.AppendAttr(r.b, attr, v) }

func (r *reply) uint32(attr uint16, v uint32) { r.b = stunmsg.AppendUint32(r.b, attr, v) }

func (r *reply) fail(code int) {
	r.attr(stunmsg.ErrorCode, []byte{0, 0, byte(code / 100), byte(code % 100)})
}

func (r *reply) unknown(attrs []uint16) {
	var v [2 * maxUnknown]byte
	for i, a := range attrs {
		binary.BigEndian.PutUint16(v[2*i:], a)
	}
	r.attr(stunmsg.UnknownAttributes, v[:2*len(attrs)])
}

func (r *reply) address(attr uint16, a netip.AddrPort) {
	r.b = stunmsg.AppendXORAddress(r.b, attr, a, r.id)
}

// done returns the message, with MESSAGE-INTEGRITY if there is a key.
func (r *reply) done(key *[keyBytes]byte) []byte {
	if key != nil {
		at := len(r.b)
		mac := integrity(key, r.b, at)
		r.attr(stunmsg.MessageIntegrity, mac[:])
	}
	return stunmsg.Finish(r.b)
}
