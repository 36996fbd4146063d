package reliable

import (
	"encoding/binary"
	"fmt"
)

// What a message of the control conversation says about a stream.
const (
	msgAccept kind = 1 // the stream is served
	msgReset  kind = 2 // both directions end at once; value is the code
	msgFin    kind = 3 // the sender's direction ends after value bytes
	msgFinAck kind = 4 // all bytes up to FIN are there
	msgCredit kind = 5 // the peer may send up to value bytes in all
	msgStop   kind = 6 // what the peer sends is not read any more

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
//	… accept, finack, stop: nothing more
//	… fin, credit, sync, syncack: 8 bytes of value
//	… reset:                4 bytes of value, then the reason, at most 256 bytes
//
// Numbers are big-endian; size counts what follows it.
type message struct {
	kind   kind
	stream uint32
	value  uint64
	reason string // of a reset
}

const (
	messageHead    = 5 // kind and stream
	maxMessageSize = messageHead + 4 + maxReason
)

// append adds the message to b. A reason that is too long is cut.
func (m message) append(b []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, byte(m.kind))
	b = binary.BigEndian.AppendUint32(b, m.stream)
	switch m.kind {
	case msgFin, msgCredit, msgSync, msgSyncAck:
		b = binary.BigEndian.AppendUint64(b, m.value)
	case msgReset:
		b = binary.BigEndian.AppendUint32(b, uint32(m.value))
		b = append(b, m.reason[:min(len(m.reason), maxReason)]...)
	}
	binary.BigEndian.PutUint16(b[start:], uint16(len(b)-start-2))
	return b
}

// nextMessage parses the message that b begins with and returns it and its length, which is 0 if b
// does not hold all of it.
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
	want := 0
	switch m.kind {
	case msgAccept, msgFinAck, msgStop:
	case msgFin, msgCredit, msgSync, msgSyncAck:
		if want = 8; len(rest) == want {
			m.value = binary.BigEndian.Uint64(rest)
		}
	case msgReset:
		if want = max(4, len(rest)); len(rest) == want {
			m.value, m.reason = uint64(binary.BigEndian.Uint32(rest)), string(rest[4:])
		}
	default:
		return message{}, 0, fmt.Errorf("%w: control message of kind %d", ErrProtocol, m.kind)
	}
	if len(rest) != want {
		return message{}, 0, fmt.Errorf("%w: control message of kind %d with %d bytes", ErrProtocol, m.kind, size)
	}
	return m, 2 + size, nil
}
