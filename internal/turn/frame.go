package turn

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

const (
	channelHeader = 4
	stunHeader    = 20
	magicCookie   = 0x2112A442
	maxMessage    = 2048 // of the server's STUN messages that matter, a datagram in a Data indication included
	leastChannel  = 0x4000
	mostChannel   = 0x4fff // RFC 8656 §12
)

var errFrame = errors.New("the relay sends what is neither STUN nor ChannelData")

func isChannelData(b []byte) bool { return len(b) >= channelHeader && b[0]&0xf0 == 0x40 }

func isSTUN(b []byte) bool {
	return len(b) >= stunHeader && b[0]&0xc0 == 0 && binary.BigEndian.Uint32(b[4:]) == magicCookie
}

// parseChannelData returns the channel and the data of a ChannelData message (RFC 8656 §12.4), which
// may be padded.
func parseChannelData(b []byte) (channel uint16, data []byte, ok bool) {
	if !isChannelData(b) {
		return 0, nil, false
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n > len(b)-channelHeader {
		return 0, nil, false
	}
	return binary.BigEndian.Uint16(b), b[channelHeader : channelHeader+n], true
}

// appendChannelData appends p as a ChannelData message, padded to four bytes if the transport is a
// stream.
func appendChannelData(b []byte, channel uint16, p []byte, stream bool) []byte {
	b = binary.BigEndian.AppendUint16(b, channel)
	b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
	b = append(b, p...)
	for stream && len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// readFrame reads the next message of a stream transport into buf. A message that is too long ends
// the stream: its end could be found, but no honest server sends one.
func readFrame(r *bufio.Reader, buf []byte) (int, error) {
	head, err := r.Peek(channelHeader)
	if err != nil {
		return 0, err
	}
	var size int
	switch n := int(binary.BigEndian.Uint16(head[2:])); {
	case head[0]&0xf0 == 0x40:
		size = (channelHeader + n + 3) &^ 3
	case head[0]&0xc0 == 0 && n%4 == 0:
		size = stunHeader + n
	default:
		return 0, errFrame
	}
	if size > len(buf) {
		return 0, errFrame
	}
	return io.ReadFull(r, buf[:size])
}
