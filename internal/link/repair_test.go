// In package link: this file looks at what an idle link keeps for repairs, and fills a flow's queue as far as
// it goes.

package link

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/congestion"
	"adit/internal/testtier"
)

// A catcher notes which numbered payloads came, and how often.
type catcher struct {
	mu    sync.Mutex
	seen  map[uint32]int
	next  uint32 // smallest that did not come
	extra int    // that came before
	stall time.Duration
	at    time.Time // when next moved last
}

func (c *catcher) take(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := binary.BigEndian.Uint32(p[1:])
	if c.seen[n]++; c.seen[n] > 1 {
		c.extra++
	}
	for c.seen[c.next] > 0 {
		if !c.at.IsZero() {
			c.stall = max(c.stall, time.Since(c.at))
		}
		c.at = time.Now()
		c.next++
	}
}

// result returns the longest wait for the next payload, and how many came again.
func (c *catcher) result() (stall time.Duration, extra int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stall, c.extra
}

func (c *catcher) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.seen)
}

func numbered(n uint32, size int) []byte {
	p := make([]byte, size)
	binary.BigEndian.PutUint32(p[1:], n)
	return p
}

// pourKeyed sends n numbered payloads with keys, as fast as the flow's queue takes them, and waits
// until all came.
func pourKeyed(t *testing.T, l *Link, c *catcher, n uint32) time.Duration {
	t.Helper()
	start := time.Now()
	for i := range n {
		for !l.Send(1, i+1, numbered(i, mtuBytes)) {
			time.Sleep(time.Millisecond)
		}
	}
	for c.count() < int(n) {
		time.Sleep(5 * time.Millisecond)
		if time.Since(start) > 10*time.Minute {
			t.Fatalf("%d of %d came: %+v", c.count(), n, l.Stats())
		}
	}
	return time.Since(start)
}

// idleRepairs checks that nothing is kept once all was reported.
func idleRepairs(t *testing.T, l *Link) {
	t.Helper()
	time.Sleep(2 * time.Second)
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.repairs
	if r.flying.head != nil || l.sched.lost != 0 {
		t.Errorf("an idle link repairs: %d bytes", l.sched.lost)
	}
	if len(l.sched.flows) > 0 {
		t.Errorf("%d flows of an idle link", len(l.sched.flows))
	}
	l.cc.Records(func(rec *congestion.Record[*packet]) {
		if rec.Load != nil {
			t.Errorf("the record of packet %d keeps a payload", rec.Counter)
		}
	})
}

func TestRepair(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		rate     float64 // Mbit/s
		delay    time.Duration
		jitter   time.Duration
		loss     float64
		double   float64
		mbit     float64 // at least
		extra    float64 // payloads that came again, as a share, at most
		stallRTT float64 // longest wait for the next payload in order, in round trips
	}{
		{"clean", 100, 20 * time.Millisecond, 0, 0, 0, 85, 0.001, 3},
		{"1 %", 100, 20 * time.Millisecond, 0, 0.01, 0, 85, 0.001, 4},
		{"5 %", 100, 20 * time.Millisecond, 0, 0.05, 0, 80, 0.01, 6},
		{"10 %", 100, 20 * time.Millisecond, 0, 0.1, 0, 60, 0.01, 7},
		{"30 %", 10, 20 * time.Millisecond, 0, 0.3, 0, 3, 0.05, 20},
		{"jitter", 100, 20 * time.Millisecond, 10 * time.Millisecond, 0, 0, 75, 0.03, 6},
		{"jitter, 1 %, doubles", 100, 20 * time.Millisecond, 10 * time.Millisecond, 0.01, 0.01, 75, 0.03, 5},
		{"slow", 1, 50 * time.Millisecond, 0, 0.02, 0, 0.75, 0.01, 5},
		{"near", 100, time.Millisecond, 0, 0.01, 0, 80, 0.01, 20},
		{"far", 50, 100 * time.Millisecond, 0, 0.02, 0, 35, 0.01, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.rate > 10 && test.double == 0 {
				testtier.Long(t)
			}
			trials(t, func(t *trial) {
				rate := test.rate * 1e6 / 8
				queue := max(int(rate*2*test.delay.Seconds()), 30000)
				s := shape{rate: rate, queue: queue, delay: test.delay, jitter: test.jitter, loss: test.loss, double: test.double}
				p := newPair(t.T, s, s, nil)
				defer p.close()
				c := &catcher{seen: make(map[uint32]int)}
				p.b.Receive(c.take)
				p.up(t.T)
				n := uint32(test.rate * 1e6 / 8 * 10 / mtuBytes)
				took := pourKeyed(t.T, p.a, c, n)
				got := mbit(int(n)*mtuBytes, took)
				st := p.a.Stats()
				stall, extra := c.result()
				sent, dropped := p.ab.counts()
				t.Logf("%.1f Mbit/s, longest stall %v, %d of %d packets dropped, %d payloads came again, %+v", got, stall, dropped, sent, extra, st)
				if got < test.mbit {
					t.Errorf("%.1f Mbit/s, want %.1f at least", got, test.mbit)
				}
				if x := float64(extra)/float64(n) - test.double; x > test.extra {
					t.Errorf("%.2f %% came again without need, want %.2f at most", 100*x, 100*test.extra)
				}
				if limit := time.Duration(test.stallRTT * 2 * float64(test.delay)); stall > limit {
					t.Errorf("waited %v for the next payload, want %v at most", stall, limit)
				}
				idleRepairs(t.T, p.a)
			})
		})
	}
}

// The last packets have none behind them that would reveal their loss.
func TestRepairTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := shape{rate: 100e6 / 8, queue: 500_000, delay: 20 * time.Millisecond}
		p := newPair(t, s, s, nil)
		defer p.close()
		came := make(chan uint32, 100)
		p.b.Receive(func(b []byte) { came <- binary.BigEndian.Uint32(b[1:]) })
		p.up(t)
		p.a.Send(1, 1, numbered(0, 100))
		<-came
		time.Sleep(time.Second)
		for _, lost := range []int{1, 5, 8} { // of eight packets the last few, and the feedback for one
			drop := 8 - lost // guarded by p.ab.mu
			p.ab.set(func(q *pipe) {
				q.tap = func(b []byte, _, _ netip.AddrPort) {
					if packetType(b) == typeData {
						drop--
					}
					q.down = drop < 0
				}
			})
			start := time.Now()
			for i := range uint32(8) {
				p.a.Send(1, 10+i, numbered(10+i, 500))
			}
			time.Sleep(time.Millisecond)
			p.ab.set(func(q *pipe) { q.tap, q.down = nil, false })
			got := make(map[uint32]bool)
			for len(got) < 8 {
				got[<-came] = true
			}
			if took := time.Since(start); took > 200*time.Millisecond {
				t.Errorf("%d lost: the rest came after %v", lost, took)
			}
			t.Logf("%d lost: all came after %v", lost, time.Since(start))
			time.Sleep(2 * time.Second)
		}
		idleRepairs(t, p.a)
	})
}

// What was in flight when the path broke comes when it is back, once, and in order.
func TestRepairOutage(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{200 * time.Millisecond, 3 * time.Second, 20 * time.Second} {
		if d != 3*time.Second && !testtier.IsLong() {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			s := shape{rate: 100e6 / 8, queue: 600_000, delay: 20 * time.Millisecond}
			p := newPair(t, s, s, nil)
			defer p.close()
			c := &catcher{seen: make(map[uint32]int)}
			p.b.Receive(c.take)
			p.up(t)
			time.AfterFunc(2*time.Second, func() {
				for _, q := range []*pipe{p.ab, p.ba} {
					q.set(func(q *pipe) { q.down = true })
				}
			})
			var dropped int
			time.AfterFunc(2*time.Second+d, func() {
				_, dropped = p.ab.counts()
				for _, q := range []*pipe{p.ab, p.ba} {
					q.set(func(q *pipe) { q.down = false })
				}
			})
			took := pourKeyed(t, p.a, c, 50000)
			stall, extra := c.result()
			t.Logf("outage of %v: %v in all, longest stall %v, %d came again, %d dropped then, %+v", d, took, stall, extra, dropped, p.a.Stats())
			if took > 6*time.Second+d+d/2 {
				t.Errorf("took %v with an outage of %v", took, d)
			}
			if extra > 1200 {
				t.Errorf("%d packets came again", extra)
			}
			idleRepairs(t, p.a)
		})
	}
}

// A key that is pending is not sent again; one that was reported is.
func TestPendingKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, shape{delay: 10 * time.Millisecond}, shape{delay: 10 * time.Millisecond}, nil)
		defer p.close()
		c := &catcher{seen: make(map[uint32]int)}
		p.b.Receive(c.take)
		p.up(t)
		for range 3 {
			for i := range uint32(50) {
				for range 3 {
					if !p.a.Send(1, 1+i*7, numbered(i, 100)) {
						t.Error("refused")
					}
				}
				p.a.Send(0, 1+i, numbered(100+i, 100))
				p.a.Send(0, 1+i, numbered(100+i, 100))
			}
			time.Sleep(time.Second)
		}
		p.a.Send(2, 5, numbered(500, 100))
		p.a.Send(2, 5, numbered(501, 101))
		idleRepairs(t, p.a)
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		for n, times := range c.seen {
			want := 3
			if n >= 500 {
				want = 1
			}
			if times != want {
				t.Errorf("payload %d came %d times, want %d", n, times, want)
			}
		}
		if len(c.seen) != 101 || c.seen[501] != 0 {
			t.Errorf("%d payloads came", len(c.seen))
		}
	})
}

func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := shape{rate: 10e6 / 8, queue: 50_000, delay: 20 * time.Millisecond, loss: 0.1}
		p := newPair(t, s, s, nil)
		defer p.close()
		p.up(t)
		p.a.Forget(1)
		key := uint32(1)
		for range 100 {
			for ; p.a.Send(1, key, numbered(key, mtuBytes)); key++ {
			}
			p.a.Send(2, key, numbered(key, 100))
			time.Sleep(10 * time.Millisecond)
		}
		p.ab.set(func(q *pipe) { q.down = true })
		time.Sleep(20 * time.Millisecond)
		p.a.Forget(1)
		p.a.Forget(0)
		if q := p.a.Stats().Queue; q > 10000 {
			t.Errorf("%d bytes are queued still", q)
		}
		p.ab.set(func(q *pipe) { q.down, q.loss = false, 0 })
		time.Sleep(time.Second)
		idleRepairs(t, p.a)
	})
}

// On a path that loses packets a keystroke's packet is sent again before its loss is noticed.
func TestThin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := shape{rate: 100e6 / 8, queue: 500_000, delay: 20 * time.Millisecond, loss: 0.01}
		p := newPair(t, s, s, nil)
		defer p.close()
		came := make(chan uint32, 100)
		key := uint32(0)
		p.b.Receive(func(b []byte) {
			key++
			p.b.Send(1, key, slices.Clone(b))
		})
		p.a.Receive(func(b []byte) { came <- binary.BigEndian.Uint32(b[1:]) })
		p.up(t)
		var took []time.Duration
		for i := range uint32(4000) {
			start := time.Now()
			p.a.Send(1, i+1, numbered(i, 100))
			for {
				if n := <-came; n == i {
					break
				}
			}
			if i >= 1000 {
				took = append(took, time.Since(start))
			}
		}
		slices.Sort(took)
		n := len(took)
		sent, _ := p.ab.counts()
		t.Logf("p50 %v, p99 %v, p99.9 %v, most %v; %d packets", took[n/2], took[n*99/100], took[n*999/1000], took[n-1], sent)
		if p99 := took[n*99/100]; p99 > 50*time.Millisecond {
			t.Errorf("p99 %v, want 50 ms at most", p99)
		}
		p.ab.set(func(q *pipe) { q.loss = 0 })
		p.ba.set(func(q *pipe) { q.loss = 0 })
		for i := range uint32(3000) {
			p.a.Send(1, i+1, numbered(i, 100))
			<-came
		}
		before, _ := p.ab.counts()
		for i := range uint32(100) {
			p.a.Send(1, i+1, numbered(i, 100))
			<-came
		}
		if after, _ := p.ab.counts(); after-before > 220 {
			t.Errorf("%d packets for a hundred without any loss", after-before)
		}
		if len(came) > 100 {
			t.Errorf("%d too many", len(came))
		}
	})
}
