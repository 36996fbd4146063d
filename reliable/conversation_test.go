// In package reliable: this file drives one conversation by hand, without a link, and looks at its windows.

package reliable

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	kcp "github.com/xtaci/kcp-go/v5"
)

// A recorder is a link that keeps what is sent.
type recorder struct {
	mu     sync.Mutex
	sent   [][]byte
	keys   []uint32
	refuse func(key uint32) bool
	rtt    time.Duration
	window int
	forgot []uint32

	pending int
}

func (r *recorder) SendFresh(flow uint32, p []byte) bool { return r.Send(flow, 0, p) }

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

func (r *recorder) Forget(flow uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgot = append(r.forgot, flow)
}

func (r *recorder) Receive(func([]byte)) {}
func (r *recorder) Pending(uint32) int   { return r.pending }
func (r *recorder) MTU() int             { return 1200 }
func (r *recorder) Window(uint32) int    { return max(r.window, 64<<10) }
func (r *recorder) RTT() time.Duration   { return r.rtt }

func push(conv, sn uint32, data string) []byte {
	p := appendHeader(nil, conv, kcp.IKCP_CMD_PUSH, 7, sn, 0)
	binary.LittleEndian.PutUint32(p[20:], uint32(len(data)))
	return append(p, data...)
}

// newReceiver returns a conversation that collects what comes, in a bubble.
func newReceiver(l Link) (c *conversation, got *[]byte) {
	got = new([]byte)
	c = newConversation(l, newGovernor(nil), &account{budget: NewBudget(0)}, 1, func(p []byte) bool {
		*got = append(*got, p...)
		return true
	}, nil)
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
		time.Sleep((holdRounds + 1) * holdRound)
		synctest.Wait()
		five := 0
		acks = l.take()
		for _, p := range acks {
			if header(p).sn() == 5 {
				five++
			}
			if header(p).una() != 4 {
				t.Errorf("got %x, want acknowledgements of all before 4", p)
			}
		}
		if five != 1 || len(acks) > holdRounds+2 {
			t.Fatalf("got %x, want one acknowledgement of 5 and one of all before 4 in a round", acks)
		}
		c.deliver(push(1, 4, "e"))
		if string(*got) != "abcdef" || c.mem.used.Load() != 0 || c.in.holding != 0 {
			t.Errorf("got %q and %d bytes held, want %q and none", *got, c.mem.used.Load(), "abcdef")
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
	others := c.mem.budget.total - 5*maxPacket
	c.mem.force(others)
	c.mem.used.Add(-others) // of another session
	for sn := range uint32(3) {
		c.deliver(push(1, sn+1, "x"))
	}
	if c.in.holding != 1 {
		t.Errorf("%d segments are held, want one", c.in.holding)
	}
	c.close()
	if got := c.mem.budget.Used(); got != others {
		t.Errorf("%d bytes of the budget are used, want %d", got, others)
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

// What was held and is refused when its turn comes is handed on later, whether it comes again or not.
func TestHeldIsRefused(t *testing.T) {
	for _, again := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			full := true
			var got []byte
			mem := &account{budget: NewBudget(0)}
			c := newConversation(&recorder{rtt: 40 * time.Millisecond}, newGovernor(nil), mem, 1, func(p []byte) bool {
				if full && len(got) > 0 {
					return false
				}
				got = append(got, p...)
				return true
			}, nil)
			defer c.close()
			for _, sn := range []uint32{1, 2, 0} {
				c.deliver(push(1, sn, string(rune('a'+sn))))
			}
			c.mu.Lock()
			full = false
			c.mu.Unlock()
			if again {
				c.deliver(push(1, 1, "b"))
			} else {
				time.Sleep(time.Second)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if string(got) != "abc" || c.in.holding > 0 || mem.used.Load() > 0 {
				t.Errorf("again %v: got %q, and %d segments are held, %d bytes", again, got, c.in.holding, mem.used.Load())
			}
		})
	}
}

// Thousands of segments behind holes take a few acknowledgements, and the sender takes them in: it sends
// again what is missing only.
func TestReportOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const segments, every = 1000, 100
		from, to := &recorder{window: 2 << 20, rtt: 40 * time.Millisecond}, &recorder{rtt: 40 * time.Millisecond}
		a, _ := newReceiver(from)
		b, _ := newReceiver(to)
		defer a.close()
		defer b.close()
		a.write(make([]byte, segments*(1200-kcp.IKCP_OVERHEAD)))
		sent := from.take()
		if len(sent) != segments {
			t.Fatalf("%d packets were sent, want %d", len(sent), segments)
		}
		var want []uint32
		for _, p := range sent {
			if sn := header(p).sn(); sn%every == 0 {
				want = append(want, sn)
			} else {
				b.deliver(p)
			}
		}
		time.Sleep((holdRounds + 1) * holdRound)
		synctest.Wait()
		size := 0
		for _, p := range to.take() {
			size += len(p)
			a.deliver(p)
		}
		if most := (segments/every + holdRounds + 2) * kcp.IKCP_OVERHEAD; size > most {
			t.Errorf("the report has %d bytes, want %d at most", size, most)
		}
		if got := a.out.reported.n; got != segments-len(want) {
			t.Errorf("%d segments are known to be there, want %d", got, segments-len(want))
		}
		time.Sleep(time.Second)
		a.look(time.Now())
		var got []uint32
		for _, p := range from.take() {
			got = append(got, header(p).sn())
		}
		if !slices.Equal(got, want) {
			t.Errorf("segments %v were sent again, want %v", got, want)
		}
		// One that tells of more than was sent says nothing of that.
		p := appendHeader(nil, 1, kcp.IKCP_CMD_ACK, 0, segments-1, 0)
		header(p).setMore(openWindow)
		a.deliver(p)
		if got := a.out.reported.n; got != segments-len(want) {
			t.Errorf("%d segments are known to be there, want %d", got, segments-len(want))
		}
	})
}

// Receiving allocates nothing, in order or not.
func TestReceiveAllocations(t *testing.T) {
	l := &recorder{refuse: func(uint32) bool { return true }}
	c, got := newReceiver(l)
	defer c.close()
	*got = make([]byte, 0, 1<<20)
	p := push(1, 0, string(make([]byte, 1000)))
	sn := uint32(0)
	deliver := func(n uint32) {
		binary.LittleEndian.PutUint32(p[12:], n)
		c.deliver(p)
	}
	allocs := testing.AllocsPerRun(100, func() {
		*got = (*got)[:0]
		for _, d := range []uint32{0, 3, 2, 1, 5, 4, 6} {
			deliver(sn + d)
		}
		sn += 7
	})
	if allocs > 0.5 || c.in.next != sn {
		t.Errorf("got %.1f allocations for 7 segments and next %d, want none and %d", allocs, c.in.next, sn)
	}
}

// Segments in any order, again and again, give the bytes in theirs and hold no more than they must.
func FuzzReceive(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3}, uint32(0))
	f.Add([]byte{3, 2, 1, 0, 0, 7, 200, 199}, uint32(1<<32-2))
	f.Fuzz(func(t *testing.T, order []byte, first uint32) {
		c, got := newReceiver(new(recorder))
		defer c.close()
		c.in.next = first
		seen := make(map[byte]bool)
		for _, n := range order {
			seen[n] = true
			c.deliver(push(1, first+uint32(n), string([]byte{n})))
		}
		want := 0
		for want < 256 && seen[byte(want)] {
			want++
		}
		if len(*got) != want || c.in.next != first+uint32(want) {
			t.Fatalf("got %d bytes and next %d, want %d and %d", len(*got), c.in.next, want, first+uint32(want))
		}
		for i, b := range *got {
			if b != byte(i) {
				t.Fatalf("got %d at %d", b, i)
			}
		}
		if held := len(seen) - want; c.in.holding != held || c.mem.used.Load() != int64(held*maxPacket) {
			t.Fatalf("got %d segments and %d bytes held, want %d", c.in.holding, c.mem.used.Load(), held)
		}
	})
}
