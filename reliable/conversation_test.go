package reliable

import (
	"bytes"
	"encoding/binary"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	kcp "github.com/xtaci/kcp-go/v5"
)

// flush means what it is used for: it sends at once and again when the time is out, and says when.
func TestFlush(t *testing.T) {
	var sizes []int
	k := kcp.NewKCP(1, func(_ []byte, n int) { sizes = append(sizes, n) })
	k.NoDelay(1, 300, 0, 1)
	k.Send([]byte("hello"))
	if next := flush(k, kcp.IKCP_FLUSH_FULL); next < 100 || next > 300 {
		t.Errorf("wanted again after %d ms, want kcp's first timeout of 200 ms", next)
	}
	flush(k, kcp.IKCP_FLUSH_FULL)
	if len(sizes) != 1 || sizes[0] != kcp.IKCP_OVERHEAD+5 {
		t.Errorf("got packets of %v bytes, want one of %d", sizes, kcp.IKCP_OVERHEAD+5)
	}
}

// A recorder is a link that keeps what is sent.
type recorder struct {
	mu     sync.Mutex
	sent   [][]byte
	keys   []uint32
	refuse func(key uint32) bool
	rtt    time.Duration
	window int
	handle func([]byte)
}

func (r *recorder) Send(_, key uint32, p []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil && r.refuse(key) {
		return false
	}
	r.sent = append(r.sent, bytes.Clone(p))
	r.keys = append(r.keys, key)
	return true
}

// take returns the packets since the last call.
func (r *recorder) take() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	sent := r.sent
	r.sent, r.keys = nil, nil
	return sent
}

func (r *recorder) Receive(f func([]byte)) { r.handle = f }
func (r *recorder) Forget(uint32)          {}
func (r *recorder) MTU() int               { return 1200 }
func (r *recorder) Window(uint32) int      { return max(r.window, 64<<10) }
func (r *recorder) RTT() time.Duration     { return r.rtt }

func push(conv, sn uint32, data string) []byte {
	p := appendHeader(nil, conv, kcp.IKCP_CMD_PUSH, 7, sn, 0)
	binary.LittleEndian.PutUint32(p[20:], uint32(len(data)))
	return append(p, data...)
}

// newReceiver returns a conversation that collects what comes, in a bubble.
func newReceiver(l Link) (c *conversation, got *[]byte) {
	got = new([]byte)
	s := new(Session)
	c = newConversation(l, newGovernor(nil), &s.held, 1, func(p []byte) bool {
		*got = append(*got, p...)
		return true
	})
	return c, got
}

// What overtakes waits, and one acknowledgement says that all is there.
func TestReceiveInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &recorder{rtt: 40 * time.Millisecond}
		c, got := newReceiver(l)
		defer c.close()
		for _, sn := range []uint32{2, 1, 3, 1, 5} {
			if c.deliver(push(1, sn, string(rune('a'+sn)))) {
				t.Errorf("segment %d came in order", sn)
			}
		}
		if len(*got) > 0 || len(l.take()) > 0 {
			t.Errorf("got %q before the first segment, want nothing", *got)
		}
		if !c.deliver(push(1, 0, "a")) || string(*got) != "abcd" {
			t.Errorf("got %q, want %q", *got, "abcd")
		}
		time.Sleep(6 * time.Millisecond) // more than an eighth of a round trip
		synctest.Wait()
		acks := l.take()
		if len(acks) != 1 || header(acks[0]).una() != 4 || header(acks[0]).cmd() != kcp.IKCP_CMD_ACK {
			t.Fatalf("got %x, want one acknowledgement of all before 4", acks)
		}
		// What is behind a hole is acknowledged on its own when the hole stays.
		time.Sleep(2 * holeDelay)
		synctest.Wait()
		acks = l.take()
		if len(acks) != 1 || header(acks[0]).una() != 4 || header(acks[0]).sn() != 5 {
			t.Fatalf("got %x, want one acknowledgement of 5", acks)
		}
		c.deliver(push(1, 4, "e"))
		if string(*got) != "abcdef" || c.held.Load() != 0 || c.in.holding != 0 {
			t.Errorf("got %q and %d bytes held, want %q and none", *got, c.held.Load(), "abcdef")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if acks = l.take(); len(acks) != 1 || !c.timerAt.IsZero() {
			t.Errorf("got %x and timer %v, want one acknowledgement and none", acks, c.timerAt)
		}
	})
}

// The window ends what may be held, and so does the session's budget.
func TestReceiveBounds(t *testing.T) {
	l := new(recorder)
	c, _ := newReceiver(l)
	defer c.close()
	c.deliver(push(1, receiveWindow, "x"))
	c.deliver(push(1, 1<<31, "x"))
	if c.in.holding != 0 {
		t.Errorf("%d segments beyond the window are held", c.in.holding)
	}
	c.held.Store(heldBytes - maxPacket)
	for sn := range uint32(3) {
		c.deliver(push(1, sn+1, "x"))
	}
	if c.in.holding != 1 {
		t.Errorf("%d segments are held, want one", c.in.holding)
	}
	c.close()
	if got := c.held.Load(); got != heldBytes-maxPacket {
		t.Errorf("%d bytes are left in the budget, want %d", got, heldBytes-maxPacket)
	}
}

// Acknowledgements of bulk are few, whatever the round trip.
func TestAckRate(t *testing.T) {
	for _, rtt := range []time.Duration{0, time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			l := &recorder{rtt: rtt}
			c, _ := newReceiver(l)
			defer c.close()
			const segments = 10000
			start := time.Now()
			for sn := range uint32(segments) { // a gigabit a second
				c.deliver(push(1, sn, "x"))
				if sn%10 == 0 {
					time.Sleep(100 * time.Microsecond)
				}
			}
			acks := len(l.take())
			limit := segments / ackEvery
			if gap := min(rtt/ackShare, maxAckDelay); gap > 0 {
				limit = min(limit, int(time.Since(start)/gap))
			}
			if acks > limit+limit/4+2 {
				t.Errorf("%v: got %d acknowledgements for %d segments, want about %d", rtt, acks, segments, limit)
			}
		})
	}
}

// What the link refused comes again after KCP's timeout, and only that: not what the peer reported, nor
// what an acknowledgement in order passes, which kcp might take for a hint that others are lost.
func TestRefusedIsSentAgain(t *testing.T) {
	w := func() *wire { return &wire{delay: 10 * time.Millisecond, loss: 0.01, broken: true} }
	ab := w()
	a, b := newSessions(t, ab, w())
	from, to := newStreams(t, a, b)
	p := data(1<<20, 8)
	before := kcp.DefaultSnmp.Copy()
	var wg sync.WaitGroup
	sends(t, &wg, from, p)
	receives(t, &wg, to, p)
	wg.Wait()
	if after := kcp.DefaultSnmp.Copy(); after.EarlyRetransSegs != before.EarlyRetransSegs || after.FastRetransSegs != before.FastRetransSegs {
		t.Errorf("kcp sent segments again before their time was out")
	}
	if sent, most := ab.bytes.Load(), int64(len(p)+len(p)/8); sent > most {
		t.Errorf("sent %d bytes for %d, want at most %d", sent, len(p), most)
	}
}
