// In package link: this file looks at the phase of the congestion control and at what an idle link keeps.

package link

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/testtier"
)

// A meter counts payload bytes by their first byte.
type meter struct {
	mu    sync.Mutex
	bytes [256]int
}

func (m *meter) take(p []byte) {
	m.mu.Lock()
	m.bytes[p[0]] += len(p)
	m.mu.Unlock()
}

// reset returns the counts and starts again.
func (m *meter) reset() [256]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.bytes
	m.bytes = [256]int{}
	return b
}

func mbit(bytes int, d time.Duration) float64 { return float64(bytes) * 8 / 1e6 / d.Seconds() }

func TestBottleneck(t *testing.T) {
	t.Parallel()
	const rate = 100e6 / 8
	const bdp = 500_000 // 40 ms
	for _, test := range []struct {
		name   string
		queue  int
		loss   float64
		jitter time.Duration
		buffer int
		want   float64 // share of the bottleneck that payloads get
		lost   float64 // share that may be lost after the start
	}{
		{"half BDP", bdp / 2, 0, 0, 4 << 20, 0.85, 0.02},
		{"100 ms", bdp * 5 / 2, 0, 0, 4 << 20, 0.85, 0.001},
		{"100 ms, 1 %", bdp * 5 / 2, 0.01, 0, 4 << 20, 0.85, 0.02},
		{"half BDP, 1 %", bdp / 2, 0.01, 0, 4 << 20, 0.85, 0.03},
		{"half BDP, 2 %", bdp / 2, 0.02, 0, 4 << 20, 0.80, 0.05},
		{"jitter", bdp, 0, 5 * time.Millisecond, 4 << 20, 0.85, 0.01},
		{"default buffer", bdp, 0, 0, 212992, 0.85, 0.01},
		{"8 %", bdp, 0.08, 0, 4 << 20, 0.5, 0.12},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name != "half BDP, 1 %" {
				testtier.Long(t)
			}
			trials(t, func(t *trial) {
				s := shape{rate: rate, queue: test.queue, delay: 20 * time.Millisecond, loss: test.loss, jitter: test.jitter}
				back := shape{rate: rate, queue: test.queue, delay: 20 * time.Millisecond, loss: test.loss}
				p := newPair(t.T, s, back, func(a, b *Config) { b.ReceiveBuffer = test.buffer })
				defer p.close()
				var m meter
				p.b.Receive(m.take)
				p.up(t.T)
				f := feed(p.a, 1)
				defer f.stop()
				time.Sleep(2 * time.Second)
				first := m.reset()[1]
				before := p.a.Stats()
				_, dropped := p.ab.counts()
				const d = 13 * time.Second // longer than the base round trip is believed
				time.Sleep(d)
				got := mbit(m.reset()[1], d)
				after := p.a.Stats()
				_, all := p.ab.counts()
				lost := float64(all-dropped) / float64(after.SentPackets-before.SentPackets)
				t.Logf("first 2 s %.1f, then %.1f Mbit/s, lost %.2f %%, %+v", mbit(first, 2*time.Second), got, 100*lost, after)
				if got < 100*test.want {
					t.Errorf("%.1f Mbit/s, want %.0f at least", got, 100*test.want)
				}
				if lost > test.lost {
					t.Errorf("%.2f %% lost, want %.2f at most", 100*lost, 100*test.lost)
				}
				if mbit(first, 2*time.Second) < 40 {
					t.Errorf("%.1f Mbit/s in the first two seconds", mbit(first, 2*time.Second))
				}
			})
		})
	}
}

// Flows share by bytes, whatever they ask for, and flow 0 and newcomers hardly wait.
func TestFairAndQuick(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := shape{rate: 100e6 / 8, queue: 1 << 20, delay: 20 * time.Millisecond}
		p := newPair(t, s, s, nil)
		defer p.close()
		var m meter
		var sentAt time.Time
		var slowest time.Duration
		came := make(chan byte, 1)
		p.b.Receive(func(b []byte) {
			m.take(b)
			if len(b) == 2 {
				slowest = max(slowest, time.Since(sentAt))
				came <- b[1]
			}
		})
		p.up(t)
		for _, flow := range []uint32{1, 2} {
			f := feed(p.a, flow)
			defer f.stop()
		}
		time.Sleep(2 * time.Second)
		m.reset()
		base := p.a.RTT() / 2
		for i := range byte(200) {
			sentAt = time.Now()
			flow := uint32(0)
			if i%2 == 1 {
				flow = 1000 + uint32(i)
			}
			p.a.Send(flow, 0, []byte{byte(flow), i})
			if got := <-came; got != i {
				t.Errorf("got packet %d, want %d", got, i)
			}
			time.Sleep(10 * time.Millisecond)
		}
		b := m.reset()
		t.Logf("flows %d and %d bytes; slowest single packet %v, round trip %v", b[1], b[2], slowest, 2*base)
		if r := float64(b[1]) / float64(b[2]); r < 0.8 || r > 1.25 {
			t.Errorf("flows got %d and %d bytes", b[1], b[2])
		}
		// 20 ms of path and up to a base round trip of queue in the network; none of our own.
		if slowest > 70*time.Millisecond {
			t.Errorf("a single packet took %v beside bulk", slowest)
		}
		p.a.mu.Lock()
		defer p.a.mu.Unlock()
		if n := len(p.a.sched.flows); n > 60 {
			t.Errorf("%d flows remembered, 2 active", n)
		}
	})
}

// The rate follows a bottleneck that changes.
func TestBottleneckChanges(t *testing.T) {
	t.Parallel()
	rates := []float64{20, 50}
	if testtier.IsLong() {
		rates = []float64{20, 100, 5, 50}
	}
	synctest.Test(t, func(t *testing.T) {
		s := shape{rate: 100e6 / 8, queue: 600_000, delay: 20 * time.Millisecond}
		p := newPair(t, s, s, nil)
		defer p.close()
		var m meter
		p.b.Receive(m.take)
		p.up(t)
		f := feed(p.a, 1)
		defer f.stop()
		time.Sleep(3 * time.Second)
		for _, rate := range rates {
			p.ab.set(func(p *pipe) { p.rate = rate * 1e6 / 8 })
			time.Sleep(6 * time.Second)
			m.reset()
			sent, dropped := p.ab.counts()
			time.Sleep(5 * time.Second)
			got := mbit(m.reset()[1], 5*time.Second)
			allSent, allDropped := p.ab.counts()
			lost := float64(allDropped-dropped) / float64(allSent-sent)
			t.Logf("%3.0f Mbit/s: %.1f, lost %.2f %%", rate, got, 100*lost)
			if got < 0.8*rate || lost > 0.05 {
				t.Errorf("%.1f Mbit/s and %.1f %% lost after a change to %.0f", got, 100*lost, rate)
			}
		}
	})
}

// An outage of the path shorter than DeadAfter is made up for quickly.
func TestOutage(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{200 * time.Millisecond, 3 * time.Second, 20 * time.Second} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			if d != 3*time.Second {
				testtier.Long(t)
			}
			synctest.Test(t, func(t *testing.T) {
				s := shape{rate: 100e6 / 8, queue: 600_000, delay: 20 * time.Millisecond}
				p := newPair(t, s, s, nil)
				defer p.close()
				var m meter
				p.b.Receive(m.take)
				p.up(t)
				f := feed(p.a, 1)
				defer f.stop()
				time.Sleep(3 * time.Second)
				for _, q := range []*pipe{p.ab, p.ba} {
					q.set(func(q *pipe) { q.down = true })
				}
				before, _ := p.ab.counts()
				time.Sleep(d)
				sent, _ := p.ab.counts()
				sent -= before
				for _, q := range []*pipe{p.ab, p.ba} {
					q.set(func(q *pipe) { q.down = false })
				}
				m.reset()
				time.Sleep(1500 * time.Millisecond)
				m.reset()
				time.Sleep(time.Second)
				got := mbit(m.reset()[1], time.Second)
				t.Logf("%d packets into the void; %.1f Mbit/s after", sent, got)
				if got < 75 {
					t.Errorf("%.1f Mbit/s after an outage", got)
				}
				if sent > 1100+200*int(d/time.Second+1) {
					t.Errorf("%d packets sent while nothing came back", sent)
				}
			})
		})
	}
}

// A link that was idle or had little to send keeps its estimate.
func TestAppLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := shape{rate: 100e6 / 8, queue: 1_000_000, delay: 20 * time.Millisecond}
		p := newPair(t, s, s, nil)
		defer p.close()
		p.up(t)
		f := feed(p.a, 1)
		time.Sleep(3 * time.Second)
		f.stop()
		before := p.a.Stats().Rate
		for range 600 {
			p.a.Send(1, 0, make([]byte, 500))
			time.Sleep(20 * time.Millisecond)
		}
		if after := p.a.Stats().Rate; after < 0.95*before {
			t.Errorf("rate %.0f after little to send, %.0f before", after, before)
		}
		time.Sleep(time.Minute)
		p.a.mu.Lock()
		if p.a.sched.flows != nil || p.a.sched.free != nil {
			t.Error("an idle link keeps its queues")
		}
		p.a.mu.Unlock()
	})
}

// A stream keeps Window bytes unacknowledged and its acknowledgements come in clumps, so that its queue
// runs empty now and then. The link must still see that the path is full, and stop growing.
func TestStartEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := shape{rate: 100e6 / 8, queue: 1_250_000, delay: 20 * time.Millisecond}
		p := newPair(t, s, s, nil)
		defer p.close()
		var m meter
		p.b.Receive(m.take)
		p.up(t)
		done, over := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(over)
			payload := make([]byte, mtuBytes)
			payload[0] = 1
			sent, acked := 0, 0
			for {
				for sent-acked < p.a.Window(1) && p.a.Send(1, 0, payload) {
					sent += len(payload)
				}
				m.mu.Lock()
				now := m.bytes[1]
				m.mu.Unlock()
				select {
				case <-time.After(35 * time.Millisecond): // half the round trip, and a stream's timers
					acked = now
				case <-done:
					return
				}
			}
		}()
		time.Sleep(3 * time.Second)
		p.a.mu.Lock()
		full := p.a.cc.State().Full
		p.a.mu.Unlock()
		st := p.a.Stats()
		got := mbit(m.reset()[1], 3*time.Second)
		close(done)
		<-over
		t.Logf("%.1f Mbit/s, %+v", got, st)
		if full == 0 || st.RTT > 85*time.Millisecond {
			t.Errorf("path found full at %v, round trip %v after three seconds", full, st.RTT)
		}
		if got < 80 {
			t.Errorf("%.1f Mbit/s", got)
		}
	})
}
