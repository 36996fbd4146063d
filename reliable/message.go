package reliable

import (
	"encoding/binary"
	"fmt"
)

// What a message of the control conversation says about a stream.
const (
	msgAccept kind = 1 // the stream is served
	msgReset  kind = 2 // the sender's direction ends after value bytes, because something failed: code says what
	msgFin    kind = 3 // the sender's direction ends after value bytes
	msgFinAck kind = 4 // all bytes up to FIN are there
	msgCredit kind = 5 // the peer may send up to value bytes in all
	msgStop   kind = 6 // what the peer sends is not read any more: code says why

	// About no stream: answered with the same value, after what was sent before it was dealt with.
	msgSync    kind = 7
	msgSyncAck kind = 8
)

type kind byte

// A message is one of the control conversation:
//
//	 0       1       2       3       4       5       6       7
//	+-------+-------+-------+-------+-------+-------+-------+---
//	|     size      | kind  |            stream             | …
//	+-------+-------+-------+-------+-------+-------+-------+---
//	… accept, finack:             nothing more
//	… fin, credit, sync, syncack: 8 bytes of value
//	… stop:                       4 bytes of code
//	… reset:                      8 bytes of value, 4 bytes of code, then the reason, at most 256 bytes
//
// Numbers are big-endian; size counts what follows it. A receiver skips the kinds that it does not know, so that
// a later version may have more of them.
type message struct {
	kind   kind
	stream uint32
	value  uint64
	code   uint32 // of a reset or a stop
	reason string // of a reset
}

const (
	messageHead    = 5 // kind and stream
	maxMessageSize = 1024
)

// append adds the message to b. A reason that is too long is cut.
func (m message) append(b []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, byte(m.kind))
	b = binary.BigEndian.AppendUint32(b, m.stream)
	switch m.kind {
	case msgFin, msgCredit, msgSync, msgSyncAck:
		b = binary.BigEndian.AppendUint64(b, m.value)
	case msgStop:
		b = binary.BigEndian.AppendUint32(b, m.code)
	case msgReset:
		b = binary.BigEndian.AppendUint64(b, m.value)
		b = binary.BigEndian.AppendUint32(b, m.code)
		b = append(b, m.reason[:min(len(m.reason), maxReason)]...)
	}
	binary.BigEndian.PutUint16(b[start:], uint16(len(b)-start-2))
	return b
}

// known reports whether this version has a meaning for k.
func (k kind) known() bool { return k >= msgAccept && k <= msgSyncAck }

// nextMessage parses the message that b begins with and returns it and its length, which is 0 if b
// does not hold all of it. One of an unknown kind has nothing but the kind and the stream.
func nextMessage(b []byte) (message, int, error) {
	if len(b) < 2 {
		return message{}, 0, nil
	}
	size := int(binary.BigEndian.Uint16(b))
	if size < messageHead || size > maxMessageSize {
		return message{}, 0, fmt.Errorf("%w: control message of %d bytes", ErrProtocol, size)
	}
	if len(b) < 2+size {
		return message{}, 0, nil
	}
	b = b[2 : 2+size]
	m := message{kind: kind(b[0]), stream: binary.BigEndian.Uint32(b[1:])}
	rest := b[messageHead:]
	ok := true
	switch m.kind {
	case msgAccept, msgFinAck:
		ok = len(rest) == 0
	case msgFin, msgCredit, msgSync, msgSyncAck:
		if ok = len(rest) == 8; ok {
			m.value = binary.BigEndian.Uint64(rest)
		}
	case msgStop:
		if ok = len(rest) == 4; ok {
			m.code = binary.BigEndian.Uint32(rest)
		}
	case msgReset:
		if ok = len(rest) >= 12 && len(rest) <= 12+maxReason; ok {
			m.value, m.code, m.reason = binary.BigEndian.Uint64(rest), binary.BigEndian.Uint32(rest[8:]), string(rest[12:])
		}
	}
	if !ok {
		return message{}, 0, fmt.Errorf("%w: control message of kind %d with %d bytes", ErrProtocol, m.kind, size)
	}
	return m, 2 + size, nil
}
