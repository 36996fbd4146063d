// Package stunmsg reads and writes the messages of STUN (RFC 8489), and the frames in which TURN (RFC 8656) sends
// them over a stream. It copies and allocates nothing that the caller does not ask for, so that a server can answer
// a flood. It knows no credentials, no retransmission and no socket: those who use it do.
//
//	 0                   1                   2                   3
//	+-------------------+-------------------+---------------------------------------+
//	|0 0| message type  | length after 20   | magic cookie                          |
//	+-------------------+-------------------+---------------------------------------+
//	| transaction id, 96 bits ...                                                   |
//	+-------------------------------------------------------------------------------+
//	| attributes: type 16, length 16, value padded to 4 bytes ...                   |
//
// Errors: [ErrFrame].
package stunmsg

import (
	"encoding/binary"
	"hash/crc32"
	"iter"
)

const (
	// HeaderBytes is the size of a message without attributes.
	HeaderBytes = 20

	// Cookie stands in each message where RFC 3489 had a part of its longer id (RFC 8489 section 5).
	Cookie = 0x2112A442

	fingerprintXOR = 0x5354554e // "STUN" (section 14.7)
)

// Types of the one method that STUN itself has.
const (
	BindingRequest = 0x0001
	BindingSuccess = 0x0101
	BindingError   = 0x0111
)

// Attributes (RFC 8489 section 18.3, RFC 5780 section 7, RFC 8445 section 16.1). Those from Optional on may be
// ignored by who does not know them.
const (
	MappedAddress          = 0x0001
	ChangeRequest          = 0x0003
	Username               = 0x0006
	MessageIntegrity       = 0x0008
	ErrorCode              = 0x0009
	UnknownAttributes      = 0x000A
	Realm                  = 0x0014
	Nonce                  = 0x0015
	MessageIntegritySHA256 = 0x001C
	PasswordAlgorithm      = 0x001D
	XORMappedAddress       = 0x0020
	Priority               = 0x0024
	UseCandidate           = 0x0025
	Padding                = 0x0026
	Optional               = 0x8000
	Fingerprint            = 0x8028
	OtherAddress           = 0x802C
)

// What CHANGE-REQUEST asks for: an answer from another address or port (RFC 5780 section 7.2).
const (
	ChangeAddr = 4
	ChangePort = 2
)

// An ID tells the answer to a request from everything else.
type ID [12]byte

// Is reports whether b begins as a STUN message does: RFC 7983 gives the first bytes 0 to 3 to STUN.
func Is(b []byte) bool {
	return len(b) >= HeaderBytes && b[0] <= 3 && binary.BigEndian.Uint32(b[4:]) == Cookie
}

// Parse checks that b is one whole message, whose attributes end where it does. What they hold is not looked at.
func Parse(b []byte) (typ uint16, id ID, ok bool) {
	if !Is(b) || len(b)%4 != 0 || int(binary.BigEndian.Uint16(b[2:])) != len(b)-HeaderBytes {
		return 0, id, false
	}
	end := HeaderBytes
	for a := range Attrs(b) {
		end = a.next
	}
	if end != len(b) {
		return 0, id, false
	}
	return binary.BigEndian.Uint16(b), ID(b[8:HeaderBytes]), true
}

// An Attr is one attribute of a message.
type Attr struct {
	Type  uint16
	Value []byte // a part of the message
	At    int    // the byte of the message where it begins
	next  int    // and the one behind it and its padding
}

// Attrs ranges over the attributes of the message b, which Parse took; it ends early at one that does not end
// within b.
func Attrs(b []byte) iter.Seq[Attr] {
	return func(yield func(Attr) bool) {
		for at := HeaderBytes; len(b)-at >= 4; {
			size := int(binary.BigEndian.Uint16(b[at+2:]))
			next := at + 4 + (size+3)&^3
			if next > len(b) || !yield(Attr{binary.BigEndian.Uint16(b[at:]), b[at+4 : at+4+size], at, next}) {
				return
			}
			at = next
		}
	}
}

// Find returns the value of the first attribute of a type in the message b, which Parse took.
func Find(b []byte, typ uint16) (value []byte, ok bool) {
	for a := range Attrs(b) {
		if a.Type == typ {
			return a.Value, true
		}
	}
	return nil, false
}

// Fingerprinted reports whether a, a FINGERPRINT of the message b, is its last attribute, and the CRC of all before
// it (section 14.7).
func Fingerprinted(b []byte, a Attr) bool {
	return len(a.Value) == 4 && a.next == len(b) && binary.BigEndian.Uint32(a.Value) == crc32.ChecksumIEEE(b[:a.At])^fingerprintXOR
}

// AppendHeader begins a message. Finish is to be called behind its last attribute.
func AppendHeader(dst []byte, typ uint16, id ID) []byte {
	dst = binary.BigEndian.AppendUint16(dst, typ)
	dst = append(dst, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, Cookie)
	return append(dst, id[:]...)
}

// AppendAttr appends an attribute, padded with zeros.
func AppendAttr(dst []byte, typ uint16, value []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, typ)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(value)))
	dst = append(dst, value...)
	return append(dst, make([]byte, -len(value)&3)...)
}

// AppendUint32 appends an attribute whose value is a number of 32 bits.
func AppendUint32(dst []byte, typ uint16, v uint32) []byte {
	dst = binary.BigEndian.AppendUint16(dst, typ)
	dst = binary.BigEndian.AppendUint16(dst, 4)
	return binary.BigEndian.AppendUint32(dst, v)
}

// Finish writes the length of the message that b is into its header, and returns b.
func Finish(b []byte) []byte {
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-HeaderBytes))
	return b
}

// Request returns a binding request without attributes, which is all that a public server needs.
func Request(id ID) []byte { return AppendHeader(make([]byte, 0, HeaderBytes), BindingRequest, id) }
