package reliable

import (
	"encoding/binary"
	"net"
	"sync"
	"time"

	kcp "github.com/xtaci/kcp-go/v5"
)

const (
	maxPacket = 1500 // kcp-go reads no more

	// queuePackets bounds what waits for a conversation's read loop. A peer has no more than
	// maxWindow segments on their way, and acknowledgements besides.
	queuePackets = 2048
)

// nowhere is the address of every packet: kcp-go drops what comes from elsewhere, and path changes are
// none of its business.
var nowhere = &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}

type packetBuffer struct {
	n int
	b [maxPacket]byte
}

var packetBuffers = sync.Pool{New: func() any { return new(packetBuffer) }}

// A packetConn is the net.PacketConn under one kcp.UDPSession. kcp-go takes any error of ReadFrom or
// WriteTo as the end of its session, so there is none before Close: what cannot be sent is dropped.
// It must not embed a *net.UDPConn, which kcp-go would find and use around it.
type packetConn struct {
	flow uint32
	link Link

	again repair // owned by kcp, which writes one packet at a time

	mu     sync.Mutex
	ready  sync.Cond // on mu: queue is not empty, or closed
	kcp    *kcp.UDPSession
	queue  []*packetBuffer // ring of n buffers from head
	head   int
	n      int
	idle   bool // the read loop waits
	closed bool
	ackNow bool // what kcp was last told
}

func newPacketConn(l Link, flow uint32) *packetConn {
	c := &packetConn{flow: flow, link: l}
	c.ready.L = &c.mu
	return c
}

// deliver queues a copy of p, or drops it if the queue is full.
func (c *packetConn) deliver(p []byte) {
	if len(p) > maxPacket {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.n == queuePackets {
		return
	}
	if c.n == len(c.queue) {
		q := make([]*packetBuffer, max(16, 2*c.n))
		copy(q[copy(q, c.queue[c.head:]):], c.queue[:c.head])
		c.queue, c.head = q, 0
	}
	b := packetBuffers.Get().(*packetBuffer)
	b.n = copy(b.b[:], p)
	c.queue[(c.head+c.n)&(len(c.queue)-1)] = b
	c.n++
	if c.idle {
		c.idle = false
		c.ready.Signal()
	}
}

// ReadFrom is called by the read loop of kcp only. The last of the packets that wait is acknowledged
// at once, together with those before it: kcp on its own would wait for its next update, which limits
// a fast path to a window every 10 ms, or acknowledge each packet in one of its own.
func (c *packetConn) ReadFrom(p []byte) (int, net.Addr, error) {
	c.mu.Lock()
	for c.n == 0 && !c.closed {
		c.idle = true
		c.ready.Wait()
	}
	if c.closed {
		c.mu.Unlock()
		return 0, nil, net.ErrClosed
	}
	b := c.queue[c.head]
	c.queue[c.head] = nil
	c.head = (c.head + 1) & (len(c.queue) - 1)
	c.n--
	last := c.n == 0
	tell := last != c.ackNow
	c.ackNow = last
	session := c.kcp
	c.mu.Unlock()

	n := copy(p, b.b[:b.n])
	packetBuffers.Put(b)
	if tell {
		session.SetACKNoDelay(last)
	}
	return n, nowhere, nil
}

func (c *packetConn) WriteTo(p []byte, _ net.Addr) (int, error) {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	switch {
	case closed:
	case c.again.urgent(p):
		c.link.Send(urgentFlow, 0, p)
		c.link.Send(urgentFlow, 0, p)
	default:
		c.link.Send(c.flow, keyOf(p), p) // one that is dropped is lost like any other
	}
	return len(p), nil
}

// Close ends the read loop and drops what is written from now on.
func (c *packetConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for ; c.n > 0; c.n-- {
		packetBuffers.Put(c.queue[c.head])
		c.queue[c.head] = nil
		c.head = (c.head + 1) & (len(c.queue) - 1)
	}
	c.queue = nil
	c.ready.Broadcast()
	return nil
}

func (c *packetConn) LocalAddr() net.Addr              { return nowhere }
func (c *packetConn) SetDeadline(time.Time) error      { return nil }
func (c *packetConn) SetReadDeadline(time.Time) error  { return nil }
func (c *packetConn) SetWriteDeadline(time.Time) error { return nil }

// conversationOf returns the conversation of a packet and whether it opens with a segment of data. It
// is not ok unless the packet is a sequence of whole KCP segments of one conversation such as kcp-go
// in stream mode sends: kcp-go trusts lengths that do not fit an int on 32-bit systems, takes
// what looks like error correction for that, and gets stuck on fragments and empty segments.
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

// keyOf returns the link's key of a packet: one more than the sequence number of its first segment of
// data, or 0 if it has none, for acknowledgements are soon out of date.
func keyOf(p []byte) uint32 {
	for len(p) >= kcp.IKCP_OVERHEAD {
		if p[4] == kcp.IKCP_CMD_PUSH {
			return binary.LittleEndian.Uint32(p[12:]) + 1
		}
		p = p[min(kcp.IKCP_OVERHEAD+int(binary.LittleEndian.Uint32(p[20:])), len(p)):]
	}
	return 0
}
