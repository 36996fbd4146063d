package reliable

import (
	"sync"
	"sync/atomic"
	"time"

	kcp "github.com/xtaci/kcp-go/v5"
)

const (
	minMTU = 576 // kcp-go would overrun its buffer below about 450

	// Segments in flight. One flush must fit kcp-go's output queue of 2048 packets with room for
	// acknowledgements; the window that is advertised is larger than what a peer uses.
	minWindow     = 32
	maxWindow     = 1536
	receiveWindow = 2048

	// How often kcp looks for segments to send again, between these; also the least that kcp adds to
	// the smoothed round trip before it takes a segment for lost. See pace.
	activeInterval = 40 * time.Millisecond
	idleInterval   = 500 * time.Millisecond

	// writeChunk is how many bytes are handed to kcp at a time. It takes them whole as soon as one
	// segment finds room, so no more than this is queued beyond the window.
	writeChunk = 32 << 10
)

// forever stands for no deadline: kcp-go does not notice one that is set during a call that began
// without.
var forever = time.Now().AddDate(100, 0, 0)

// A conversation is a kcp.UDPSession over its packetConn. Its write methods are called by one
// goroutine at a time.
type conversation struct {
	pc    *packetConn
	kcp   *kcp.UDPSession
	once  sync.Once
	ended chan struct{} // closed by close

	touched atomic.Bool // something was sent or received since the governor looked
	active  atomic.Bool // the governor looks after it
	kicking atomic.Bool // a goroutine is in kick

	// Owned by the governor.
	interval  time.Duration
	window    int       // segments
	mtu       int       // bytes
	since     time.Time // it became active
	lastTouch time.Time
}

func newConversation(l Link, conv uint32) *conversation {
	c := &conversation{pc: newPacketConn(l, conv), ended: make(chan struct{})}
	s, err := kcp.NewConn4(conv, nowhere, nil, 0, 0, true, c.pc)
	if err != nil {
		panic("reliable: kcp.NewConn4: " + err.Error()) // it returns none in this version
	}
	c.kcp = s
	//lint:ignore SA1019 segments are not filled up without it, and it has no successor
	s.SetStreamMode(true)
	s.SetWriteDelay(false)
	s.SetNoDelay(1, int(idleInterval/time.Millisecond), 2, 1)
	_ = s.SetWriteDeadline(forever) // never fails
	c.fit(l)
	c.pc.mu.Lock()
	c.pc.kcp = s
	c.pc.mu.Unlock()
	return c
}

// fit takes over what the link says. The governor calls it, and the constructor before it.
func (c *conversation) fit(l Link) {
	if mtu := min(max(l.MTU(), minMTU), maxPacket); mtu != c.mtu {
		c.mtu = mtu
		c.kcp.SetMtu(mtu)
	}
	if w := min(max(l.Window(c.pc.flow)/c.mtu, minWindow), maxWindow); w != c.window {
		c.window = w
		c.kcp.SetWindowSize(w, receiveWindow)
	}
}

// pace sets the interval of a conversation in use to its round trip and a half. kcp takes a segment for
// lost after the round trip and four deviations, or the interval if that is more. When a hole is
// filled, a whole window leaves at once and waits for the path to take it, for another round trip: with
// an interval of 10 ms a sixth of all segments on a path of 100 Mbit/s and 40 ms was sent twice for
// nothing, with this one a thousandth. Acknowledgements and new segments do not wait for it.
func (c *conversation) pace(l Link) {
	rtt := time.Duration(c.kcp.GetSRTT()) * time.Millisecond
	want := min(max(rtt+rtt/2, 2*l.RTT(), activeInterval), idleInterval)
	if want-c.interval > c.interval/8 || c.interval-want > c.interval/8 {
		c.setInterval(want)
	}
}

func (c *conversation) setInterval(d time.Duration) {
	c.interval = d
	c.kcp.SetNoDelay(1, int(d/time.Millisecond), 2, 1)
}

// kick makes kcp look now for segments to send again; an update that was scheduled while the
// conversation was idle may be half a second away. An empty write is a flush. It blocks while the
// window is full, when other things flush anyway: hence the goroutine.
func (c *conversation) kick() {
	if c.kicking.CompareAndSwap(false, true) {
		go func() {
			_, _ = c.kcp.Write(nil) // fails when the conversation has ended
			c.kicking.Store(false)
		}()
	}
}

// close ends the conversation at once. What has not arrived is not sent again.
func (c *conversation) close() {
	c.once.Do(func() {
		close(c.ended)
		_ = c.pc.Close()  // never fails; first, because closing kcp flushes
		_ = c.kcp.Close() // fails the second time only
	})
}
