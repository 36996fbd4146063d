package punch

import "encoding/binary"

// STUN messages (RFC 8489 §5, §14), as far as this package reads them itself:
//
//	0                   2                   4                       8         20
//	| 0 0 | type (14)   | length of what    | magic cookie          | trans-  | attributes: type (2),
//	|     |             | follows byte 20   | 21 12 A4 42           | action  | length (2), value,
//	|     |             |                   |                       | id (12) | padding to 4 bytes
const (
	stunHeader = 20
	stunCookie = 0x2112A442
	maxSTUN    = 1500 // a check has some hundred bytes

	bindingRequest = 0x0001
	bindingSuccess = 0x0101
	bindingError   = 0x0111

	attrMappedAddress    = 0x0001
	attrUsername         = 0x0006
	attrXORMappedAddress = 0x0020
)

type transactionID [12]byte

// isSTUN reports whether a packet is meant for ICE: RFC 7983 gives first bytes 0 to 3 to STUN.
func isSTUN(p []byte) bool {
	return len(p) >= stunHeader && p[0] <= 3 && binary.BigEndian.Uint32(p[4:]) == stunCookie
}

// parseSTUN returns type, transaction and attributes of a packet for which isSTUN holds; ok is false
// unless its length is what the header says.
func parseSTUN(p []byte) (typ uint16, id transactionID, attrs []byte, ok bool) {
	n := int(binary.BigEndian.Uint16(p[2:]))
	if n%4 != 0 || n != len(p)-stunHeader || len(p) > maxSTUN {
		return 0, id, nil, false
	}
	copy(id[:], p[8:])
	return binary.BigEndian.Uint16(p), id, p[stunHeader:], true
}

// stunAttr returns the value of the first attribute of a type.
func stunAttr(attrs []byte, typ uint16) ([]byte, bool) {
	for len(attrs) >= 4 {
		t, n := binary.BigEndian.Uint16(attrs), int(binary.BigEndian.Uint16(attrs[2:]))
		if n > len(attrs)-4 {
			return nil, false
		}
		if t == typ {
			return attrs[4 : 4+n], true
		}
		attrs = attrs[min(len(attrs), 4+(n+3)&^3):]
	}
	return nil, false
}
