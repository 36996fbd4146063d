package reliable

import (
	"encoding/binary"
	"sync"

	kcp "github.com/xtaci/kcp-go/v5"
)

const (
	maxPacket = 1500 // what kcp-go's buffers hold
	minMTU    = 576  // kcp-go would overrun its buffer below about 450

	// openWindow is the receive window in every segment. It never closes: credit holds a sender up.
	openWindow = 1<<16 - 1
)

// A packetBuffer holds the data of one segment that waits for those before it.
type packetBuffer struct {
	n        int
	ts       uint32
	round    uint32 // receiver.round when it came
	reported bool   // the peer was told that it is here
	b        [maxPacket]byte
}

var packetBuffers = sync.Pool{New: func() any { return new(packetBuffer) }}

// A header is the head of a segment:
//
//	 0               4   5   6       8              12              16              20              24
//	+---------------+---+---+-------+---------------+---------------+---------------+---------------+
//	| conversation  |cmd|frg|  wnd  |      ts       |      sn       |      una      |     size      |
//	+---------------+---+---+-------+---------------+---------------+---------------+---------------+
//
// Numbers are little-endian.
type header []byte

func (h header) cmd() byte   { return h[4] }
func (h header) ts() uint32  { return binary.LittleEndian.Uint32(h[8:]) }
func (h header) sn() uint32  { return binary.LittleEndian.Uint32(h[12:]) }
func (h header) una() uint32 { return binary.LittleEndian.Uint32(h[16:]) }
func (h header) size() int   { return int(binary.LittleEndian.Uint32(h[20:])) }

// more is, of an acknowledgement, how many segments behind sn are acknowledged as well. It takes the
// place of the receive window, so that it is 0 in those of kcp itself.
func (h header) more() int { return openWindow - int(binary.LittleEndian.Uint16(h[6:])) }

func (h header) setMore(n int) { binary.LittleEndian.PutUint16(h[6:], uint16(openWindow-n)) }

// address sets the conversation and the sequence number.
func (h header) address(conv, sn uint32) {
	binary.LittleEndian.PutUint32(h, conv)
	binary.LittleEndian.PutUint32(h[12:], sn)
}

// stamp sets what the receiving half of the conversation knows and kcp does not.
func (h header) stamp(una uint32) {
	binary.LittleEndian.PutUint16(h[6:], openWindow)
	binary.LittleEndian.PutUint32(h[16:], una)
}

// appendHeader appends a segment without data.
func appendHeader(b []byte, conv uint32, cmd byte, ts, sn, una uint32) []byte {
	b = binary.LittleEndian.AppendUint32(b, conv)
	b = append(b, cmd, 0)
	b = binary.LittleEndian.AppendUint16(b, openWindow)
	b = binary.LittleEndian.AppendUint32(b, ts)
	b = binary.LittleEndian.AppendUint32(b, sn)
	b = binary.LittleEndian.AppendUint32(b, una)
	return binary.LittleEndian.AppendUint32(b, 0)
}

// conversationOf returns the conversation of a packet and whether it opens with a segment of data. It
// is not ok unless the packet is a sequence of whole KCP segments of one conversation such as kcp-go
// in stream mode sends.
func conversationOf(p []byte) (conv uint32, push, ok bool) {
	if len(p) < kcp.IKCP_OVERHEAD || len(p) > maxPacket {
		return 0, false, false
	}
	conv = binary.LittleEndian.Uint32(p)
	push = p[4] == kcp.IKCP_CMD_PUSH
	for len(p) > 0 {
		if len(p) < kcp.IKCP_OVERHEAD || binary.LittleEndian.Uint32(p) != conv || p[5] != 0 {
			return 0, false, false
		}
		size := binary.LittleEndian.Uint32(p[20:])
		if size > uint32(len(p)-kcp.IKCP_OVERHEAD) {
			return 0, false, false
		}
		switch p[4] {
		case kcp.IKCP_CMD_PUSH:
			if size == 0 {
				return 0, false, false
			}
		case kcp.IKCP_CMD_ACK, kcp.IKCP_CMD_WASK, kcp.IKCP_CMD_WINS:
			if size != 0 {
				return 0, false, false
			}
		default:
			return 0, false, false
		}
		p = p[kcp.IKCP_OVERHEAD+size:]
	}
	return conv, push, true
}
