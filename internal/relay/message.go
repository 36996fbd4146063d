package relay

import (
	"crypto/sha1"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"time"
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

// Attributes (RFC 8656 section 18, RFC 8489 section 18.3).
const (
	attrUsername          = 0x0006
	attrIntegrity         = 0x0008
	attrChannelNumber     = 0x000C
	attrLifetime          = 0x000D
	attrPeerAddress       = 0x0012
	attrData              = 0x0013
	attrRealm             = 0x0014
	attrNonce             = 0x0015
	attrRelayedAddress    = 0x0016
	attrRequestedFamily   = 0x0017
	attrEvenPort          = 0x0018
	attrTransport         = 0x0019
	attrIntegritySHA256   = 0x001C
	attrPasswordAlgorithm = 0x001D
	attrReservation       = 0x0022
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
	family4 = 1
	family6 = 2

	protocolUDP = 17

	maxPeerAttrs = 16 // addresses in one CreatePermission request

	channelHeader = 4
	minChannel    = 0x4000
	maxChannel    = 0x7FFE // of RFC 5766, as coturn's client uses; RFC 8656 has 0x4FFF
)

// A message is a request or an indication of a client. The slices are parts of the packet.
type message struct {
	method uint16
	class  uint16
	id     []byte // bytes 4 to 20: the cookie and the transaction id

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
	if len(b) < headerBytes || len(b)%4 != 0 || b[0] > 3 ||
		int(binary.BigEndian.Uint16(b[2:])) != len(b)-headerBytes || binary.BigEndian.Uint32(b[4:]) != magicCookie {
		return false
	}
	kind := binary.BigEndian.Uint16(b)
	*m = message{method: kind &^ classBits, class: kind & classBits, id: b[4:headerBytes]}
	for at := headerBytes; at < len(b); {
		if len(b)-at < 4 {
			return false
		}
		attr := binary.BigEndian.Uint16(b[at:])
		size := int(binary.BigEndian.Uint16(b[at+2:]))
		end := at + 4 + (size+3)&^3
		if end > len(b) {
			return false
		}
		v := b[at+4 : at+4+size]
		switch {
		case attr == fingerprint:
			if size != 4 || end != len(b) || binary.BigEndian.Uint32(v) != crc32.ChecksumIEEE(b[:at])^fingerprintXOR {
				return false
			}
		case m.integrityAt != 0:
		case attr == attrIntegrity:
			m.bad = m.bad || size != sha1.Size
			m.integrityAt = at
		default:
			m.attribute(attr, v)
		}
		at = end
	}
	return true
}

func (m *message) attribute(attr uint16, v []byte) {
	fits := func(n int) bool {
		m.bad = m.bad || len(v) != n
		return len(v) == n
	}
	switch attr {
	case attrUsername:
		m.username = v
	case attrRealm:
		m.realm = v
	case attrNonce:
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
		peer, ok := xorAddress(v, m.id)
		if !ok || m.npeers == len(m.peers) {
			m.bad = true
			return
		}
		m.peers[m.npeers] = peer
		m.npeers++
	case attrData:
		m.data, m.hasData = v, true
	case attrIntegritySHA256, attrPasswordAlgorithm:
		// Our nonces do not offer them (RFC 8489 section 9.2.1): a client that uses them gets no further.
	default:
		if attr < comprehension && m.nunknown < maxUnknown {
			m.unknown[m.nunknown] = attr
			m.nunknown++
		}
	}
}

// xorAddress reads an address that is masked with the cookie and the transaction id.
func xorAddress(v, id []byte) (netip.AddrPort, bool) {
	if len(v) < 4 {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(v[2:]) ^ magicCookie>>16
	raw := v[4:]
	switch {
	case v[1] == family4 && len(raw) == 4:
		var a [4]byte
		for i := range a {
			a[i] = raw[i] ^ id[i]
		}
		return netip.AddrPortFrom(netip.AddrFrom4(a), port), true
	case v[1] == family6 && len(raw) == 16:
		var a [16]byte
		for i := range a {
			a[i] = raw[i] ^ id[i]
		}
		return netip.AddrPortFrom(netip.AddrFrom16(a), port), true
	}
	return netip.AddrPort{}, false
}

// A reply is a message being written.
type reply struct{ b []byte }

// answer begins the response to m in dst[:0].
func answer(dst []byte, m *message, class uint16) reply {
	b := binary.BigEndian.AppendUint16(dst[:0], m.method|class)
	b = append(b, 0, 0)
	return reply{append(b, m.id...)}
}

func (r *reply) attr(attr uint16, v []byte) {
	r.b = binary.BigEndian.AppendUint16(r.b, attr)
	r.b = binary.BigEndian.AppendUint16(r.b, uint16(len(v)))
	r.b = append(r.b, v...)
	for len(r.b)%4 != 0 {
		r.b = append(r.b, 0)
	}
}

func (r *reply) uint32(attr uint16, v uint32) {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	r.attr(attr, b[:])
}

func (r *reply) fail(code int) {
	r.attr(errorCode, []byte{0, 0, byte(code / 100), byte(code % 100)})
}

func (r *reply) unknown(attrs []uint16) {
	var v [2 * maxUnknown]byte
	for i, a := range attrs {
		binary.BigEndian.PutUint16(v[2*i:], a)
	}
	r.attr(unknownAttrs, v[:2*len(attrs)])
}

func (r *reply) address(attr uint16, a netip.AddrPort) {
	var v [20]byte
	r.attr(attr, appendXORAddress(v[:0], a, r.b[4:headerBytes]))
}

func appendXORAddress(dst []byte, a netip.AddrPort, id []byte) []byte {
	ip := a.Addr().Unmap()
	port := a.Port() ^ magicCookie>>16
	if ip.Is4() {
		dst = append(dst, 0, family4, byte(port>>8), byte(port))
		raw := ip.As4()
		for i, b := range raw {
			dst = append(dst, b^id[i])
		}
		return dst
	}
	dst = append(dst, 0, family6, byte(port>>8), byte(port))
	raw := ip.As16()
	for i, b := range raw {
		dst = append(dst, b^id[i])
	}
	return dst
}

// done returns the message, with MESSAGE-INTEGRITY if there is a key.
func (r *reply) done(key *[keyBytes]byte) []byte {
	if key != nil {
		at := len(r.b)
		mac := integrity(key, r.b, at)
		r.attr(attrIntegrity, mac[:])
	}
	binary.BigEndian.PutUint16(r.b[2:], uint16(len(r.b)-headerBytes))
	return r.b
}
