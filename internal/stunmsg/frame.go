package stunmsg

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// Channels of TURN. A ChannelData message (RFC 8656 section 12.4) has no type and no cookie:
//
//	| channel 16 | length of the data 16 | data, over a stream padded to 4 bytes |
const (
	ChannelHeader = 4
	MinChannel    = 0x4000
	MaxChannel    = 0x4FFF // of RFC 8656
	MaxChannelOld = 0x7FFE // of RFC 5766, as coturn's client uses
)

// ErrFrame is returned for what begins neither as a STUN message nor as ChannelData, or is too long.
var ErrFrame = errors.New("what comes is neither STUN nor ChannelData")

// IsChannelData reports whether b begins as ChannelData does.
func IsChannelData(b []byte) bool { return len(b) >= ChannelHeader && b[0]&0xC0 == 0x40 }

// ChannelData returns the channel and the data of a ChannelData message, which is a part of b. What follows the data
// in b is padding.
func ChannelData(b []byte) (channel uint16, data []byte, ok bool) {
	if !IsChannelData(b) {
		return 0, nil, false
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n > len(b)-ChannelHeader {
		return 0, nil, false
	}
	return binary.BigEndian.Uint16(b), b[ChannelHeader : ChannelHeader+n], true
}

// AppendChannelData appends data as a ChannelData message, padded if the transport is a stream.
func AppendChannelData(dst []byte, channel uint16, data []byte, stream bool) []byte {
	dst = binary.BigEndian.AppendUint16(dst, channel)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(data)))
	dst = append(dst, data...)
	if stream {
		dst = append(dst, make([]byte, -len(data)&3)...)
	}
	return dst
}

// FrameBytes returns how long the message of a stream is that begins with head, padding included; 0 if none does.
// head has four bytes at least.
func FrameBytes(head []byte) int {
	size := int(binary.BigEndian.Uint16(head[2:]))
	switch {
	case IsChannelData(head):
		return (ChannelHeader + size + 3) &^ 3
	case head[0] <= 3 && size%4 == 0:
		return HeaderBytes + size
	}
	return 0
}

// ReadFrame reads the next message of a stream into buf and returns its length. One that does not fit is ErrFrame:
// its end could be found, but nobody honest sends one.
func ReadFrame(r *bufio.Reader, buf []byte) (int, error) {
	head, err := r.Peek(ChannelHeader)
	if err != nil {
		return 0, err
	}
	size := FrameBytes(head)
	if size == 0 || size > len(buf) {
		return 0, ErrFrame
	}
	return io.ReadFull(r, buf[:size])
}
