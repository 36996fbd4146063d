package doctor

import (
	"encoding/binary"
	"net/netip"
)

// The part of STUN (RFC 8489) and of its NAT behaviour discovery (RFC 5780) that the tests need.
//
//	 0                   1                   2                   3
//	+-------------------+-------------------+---------------------------------------+
//	|0 0| message type  | length after 20   | magic cookie                          |
//	+-------------------+-------------------+---------------------------------------+
//	| transaction id, 96 bits ...                                                   |
//	+-------------------------------------------------------------------------------+
//	| attributes: type 16, length 16, value padded to 4 bytes ...                   |
const (
	headerBytes    = 20
	magicCookie    = 0x2112A442
	bindingRequest = 0x0001
	bindingSuccess = 0x0101

	attrMapped        = 0x0001
	attrChangeRequest = 0x0003 // RFC 5780 section 7.2
	attrXORMapped     = 0x0020
	attrPadding       = 0x0026 // RFC 5780 section 7.6
	attrOther         = 0x802C // RFC 5780 section 7.4

	changeAddr, changePort = 4, 2
)

// A txid is the transaction id of a request, which tells its answer from everything else.
type txid [12]byte

// request makes a binding request. change is what CHANGE-REQUEST asks for; below 0 it is left out. size is
// that of the whole message, which PADDING fills up; 0 for no padding.
func request(id txid, change, size int) []byte {
	b := make([]byte, headerBytes, max(size, headerBytes+8))
	binary.BigEndian.PutUint16(b, bindingRequest)
	binary.BigEndian.PutUint32(b[4:], magicCookie)
	copy(b[8:], id[:])
	if change >= 0 {
		b = binary.BigEndian.AppendUint32(b, attrChangeRequest<<16|4)
		b = binary.BigEndian.AppendUint32(b, uint32(change))
	}
	if n := size - len(b) - 4; n > 0 {
		b = binary.BigEndian.AppendUint32(b, attrPadding<<16|uint32(n))
		b = append(b, make([]byte, n)...)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-headerBytes))
	return b
}

// A reply is a STUN message that came in, answer or not, and where from.
type reply struct {
	kind   uint16
	from   netip.AddrPort
	mapped netip.AddrPort // the sender's address as the server saw it; invalid if it does not say
	other  netip.AddrPort // its address for answers from elsewhere; invalid if it has none
}

// parse reads a message. ok is false for what is not STUN, or not whole.
func parse(b []byte) (id txid, r reply, ok bool) {
	if len(b) < headerBytes || len(b)%4 != 0 || b[0] > 3 ||
		int(binary.BigEndian.Uint16(b[2:])) != len(b)-headerBytes || binary.BigEndian.Uint32(b[4:]) != magicCookie {
		return id, r, false
	}
	copy(id[:], b[8:])
	r.kind = binary.BigEndian.Uint16(b)
	for at := headerBytes; at < len(b); {
		if len(b)-at < 4 {
			return id, r, false
		}
		size := int(binary.BigEndian.Uint16(b[at+2:]))
		end := at + 4 + (size+3)&^3
		if end > len(b) {
			return id, r, false
		}
		v := b[at+4 : at+4+size]
		switch binary.BigEndian.Uint16(b[at:]) {
		case attrXORMapped:
			r.mapped = address(v, b[4:headerBytes])
		case attrMapped:
			if !r.mapped.IsValid() { // of servers older than RFC 5389
				r.mapped = address(v, nil)
			}
		case attrOther:
			r.other = address(v, nil)
		}
		at = end
	}
	return id, r, true
}

// address reads an address (RFC 8489 section 14.1), masked with cookie and id if mask is not nil. It is
// invalid if v holds none.
func address(v, mask []byte) netip.AddrPort {
	if len(v) < 4 {
		return netip.AddrPort{}
	}
	port := binary.BigEndian.Uint16(v[2:])
	raw := append([]byte(nil), v[4:]...)
	if v[1] == 1 && len(raw) != 4 || v[1] == 2 && len(raw) != 16 || v[1] != 1 && v[1] != 2 {
		return netip.AddrPort{}
	}
	if mask != nil {
		port ^= magicCookie >> 16
		for i := range raw {
			raw[i] ^= mask[i]
		}
	}
	a, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), port)
}
