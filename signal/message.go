package signal

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// A Kind says what a message is for.
type Kind uint8

// The kinds of message. Their values are on the wire.
const (
	KindOffer      Kind = iota + 1 // first message of the handshake
	KindAnswer                     // second message of the handshake
	KindCandidates                 // candidates found after the offer or the answer was sent, sealed
	KindPAKE                       // the room creator's share of the PAKE
	KindAbort                      // the sender gives up; the body is one byte that says why
	KindHalf                       // half of another generation of a session that lost its path, sealed
)

// String returns the kind as a word for a sentence.
func (k Kind) String() string {
	switch k {
	case KindOffer:
		return "offer"
	case KindAnswer:
		return "answer"
	case KindCandidates:
		return "candidates"
	case KindPAKE:
		return "pake"
	case KindAbort:
		return "abort"
	case KindHalf:
		return "half"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

const (
	// MaxMessage is the size of the largest message in bytes, as Append encodes it.
	MaxMessage = 16 << 10

	messageVersion     = 1
	messageHeaderBytes = 6
)

// A Message is what peers exchange. Expires counts in whole seconds; the zero time means never.
type Message struct {
	Kind    Kind
	Expires time.Time
	Body    []byte
}

// Append appends the binary form of m to dst. It does not check the length: a channel does, with
// ErrTooLong.
//
//	 0        1        2                 6
//	+--------+--------+-----------------+--------------
//	| ver 1  | kind   | expires, unix s | body ...
//	+--------+--------+-----------------+--------------
//
// Integers are big-endian. An expiry of 0 is none.
func (m Message) Append(dst []byte) []byte {
	dst = append(dst, messageVersion, byte(m.Kind))
	dst = binary.BigEndian.AppendUint32(dst, expiry(m.Expires))
	return append(dst, m.Body...)
}

// ParseMessage reads what Append wrote. The body is a copy. Any kind but 0 is let through, so that a
// receiver can tell a kind it does not know from garbage.
func ParseMessage(b []byte) (Message, error) {
	switch {
	case len(b) > MaxMessage:
		return Message{}, fmt.Errorf("parse message of %d bytes: %w", len(b), ErrTooLong)
	case len(b) < messageHeaderBytes:
		return Message{}, fmt.Errorf("parse message of %d bytes: want %d or more", len(b), messageHeaderBytes)
	case b[0] != messageVersion:
		return Message{}, fmt.Errorf("parse message of version %d: want %d", b[0], messageVersion)
	case b[1] == 0:
		return Message{}, fmt.Errorf("parse message: kind 0")
	}
	return Message{
		Kind:    Kind(b[1]),
		Expires: expires(binary.BigEndian.Uint32(b[2:])),
		Body:    append([]byte(nil), b[messageHeaderBytes:]...),
	}, nil
}

// expiry returns t in unix seconds, 0 for none. Times out of range move to the nearest in range:
// what expired in 1969 has still expired.
func expiry(t time.Time) uint32 {
	if t.IsZero() {
		return 0
	}
	return uint32(min(max(t.Unix(), 1), math.MaxUint32))
}

func expires(s uint32) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(int64(s), 0)
}
