// In package link: this file uses the network in memory of sim_test.go.

package link

import (
	"fmt"
	"testing"
	"time"

	"adit/internal/testtier"
)

// Two links share a bottleneck about evenly.
func TestTwoLinks(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		mbit  float64
		rtt   time.Duration
		queue float64
		loss  float64
		later time.Duration
		most  float64       // share of the first
		wait  time.Duration // p50 in the queue in the last ten seconds
	}{
		{100, 40 * time.Millisecond, 1, 0, 0, 0.6, 18 * time.Millisecond}, // W1
		{100, 40 * time.Millisecond, 1, 0.01, 0, 0.65, 18 * time.Millisecond},
		{20, 40 * time.Millisecond, 2, 0, 0, 0.6, 25 * time.Millisecond},
		{100, 40 * time.Millisecond, 1, 0, 5 * time.Second, 0.7, 18 * time.Millisecond}, // the second needs time
		{100, 40 * time.Millisecond, 0.5, 0.01, 2 * time.Second, 0.7, 18 * time.Millisecond},
		{20, 40 * time.Millisecond, 2, 0, 3 * time.Second, 0.7, 25 * time.Millisecond},
		{10, 100 * time.Millisecond, 4, 0, 3 * time.Second, 0.75, 60 * time.Millisecond},
	} {
		t.Run(fmt.Sprintf("%v Mbit per s, %v BDP, %v loss, %v later", test.mbit, test.queue, test.loss, test.later), func(t *testing.T) {
			if test.mbit != 20 || test.later > 0 {
				testtier.Long(t)
			}
			trials(t, func(t *trial) {
				rate := test.mbit * 1e6 / 8
				s := shape{rate: rate, queue: int(rate * test.rtt.Seconds() * test.queue), delay: test.rtt / 2, loss: test.loss}
				back := s
				back.queue = max(back.queue, 100000)
				p := newPair(t.T, s, back, nil)
				defer p.close()
				q := p.beside(t.T)
				defer q.b.Close("")
				defer q.a.Close("")
				var m, n meter
				p.b.Receive(m.take)
				q.b.Receive(n.take)
				p.up(t.T)
				q.up(t.T)
				p.ab.queueing()
				f := feed(p.a, 1)
				defer f.stop()
				time.Sleep(test.later)
				g := feed(q.a, 1)
				m.reset()
				const d = 30 * time.Second
				a, b := 0, 0
				var p50, p99 time.Duration
				for range 3 {
					time.Sleep(d / 3)
					x, y := m.reset()[1], n.reset()[1]
					p50, p99 = p.ab.queueing()
					t.Logf("%.1f and %.1f Mbit/s: %.2f; queue %v %v", mbit(x, d/3), mbit(y, d/3), float64(x)/float64(x+y), p50, p99)
					a, b = a+x, b+y
				}
				share := float64(a) / float64(a+b)
				sent, dropped := p.ab.counts()
				t.Logf("in all %.2f, %d of %d dropped", share, dropped, sent)
				if p50 > test.wait {
					t.Errorf("packets wait %v in the queue, want %v at most", p50, test.wait)
				}
				// Who is alone again takes all soon.
				g.stop()
				time.Sleep(50 * test.rtt)
				m.reset()
				time.Sleep(50 * test.rtt)
				alone := mbit(m.reset()[1], 50*test.rtt)
				t.Logf("alone %.1f Mbit/s", alone)
				if alone < 0.85*test.mbit {
					t.Errorf("alone %.1f Mbit/s", alone)
				}
				if share < 1-test.most || share > test.most || mbit(a+b, d) < 0.85*test.mbit {
					t.Errorf("%.1f and %.1f Mbit/s", mbit(a, d), mbit(b, d))
				}
			})
		})
	}
}

// A link beside a TCP connection takes neither all nor nothing.
func TestBesideCubic(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		mbit          float64
		rtt           time.Duration
		queue         float64
		linkAt, tcpAt time.Duration
		least, most   float64
	}{
		{20, 40 * time.Millisecond, 2, 0, 0, 0.3, 0.7},
		{20, 40 * time.Millisecond, 2, 5 * time.Second, 0, 0.3, 0.7},
		{20, 40 * time.Millisecond, 2, 0, 5 * time.Second, 0.3, 0.7},
		{20, 40 * time.Millisecond, 1, 0, 0, 0.1, 0.9},
		{20, 40 * time.Millisecond, 4, 0, 0, 0.1, 0.9},
		{100, 40 * time.Millisecond, 2, 0, 0, 0.15, 0.85},
		{10, 100 * time.Millisecond, 2, 0, 0, 0.15, 0.85},
		{100, 40 * time.Millisecond, 2, 5 * time.Second, 0, 0.2, 0.7}, // who comes later needs time
		{10, 100 * time.Millisecond, 2, 5 * time.Second, 0, 0.2, 0.7},
	} {
		t.Run(fmt.Sprintf("%v Mbit per s, %v BDP, at %v and %v", test.mbit, test.queue, test.linkAt, test.tcpAt), func(t *testing.T) {
			if test.mbit != 20 || test.queue != 2 || test.linkAt > 0 || test.tcpAt > 0 {
				testtier.Long(t)
			}
			trials(t, func(t *trial) {
				rate := test.mbit * 1e6 / 8
				s := shape{rate: rate, queue: int(rate * test.rtt.Seconds() * test.queue), delay: test.rtt / 2}
				p := newPair(t.T, s, shape{delay: test.rtt / 2}, nil)
				defer p.close()
				var m meter
				p.b.Receive(m.take)
				p.up(t.T)
				c := &cubic{}
				start := time.Now()
				at := func(d time.Duration) { time.Sleep(d - time.Since(start)) }
				var f *feeder
				if test.linkAt <= test.tcpAt {
					at(test.linkAt)
					f = feed(p.a, 1)
					at(test.tcpAt)
					c = newCubic(p.ab, test.rtt/2)
				} else {
					at(test.tcpAt)
					c = newCubic(p.ab, test.rtt/2)
					at(test.linkAt)
					f = feed(p.a, 1)
				}
				defer c.stop()
				defer f.stop()
				m.reset()
				const d = 60 * time.Second
				before, a, b := c.bytes(), 0, 0
				p.ab.queueing()
				for range 6 {
					time.Sleep(d / 6)
					x, y := m.reset()[1], c.bytes()-before-b
					a, b = a+x, b+y
					p50, p99 := p.ab.queueing()
					t.Logf("link %.1f, TCP %.1f Mbit/s: %.2f; queue %v %v", mbit(x, d/6), mbit(y, d/6), float64(x)/float64(x+y), p50, p99)
				}
				share := float64(a) / float64(a+b)
				t.Logf("in all %.2f", share)
				if share < test.least || share > test.most {
					t.Errorf("the link's share is %.2f, want %.1f to %.1f", share, test.least, test.most)
				}
			})
		})
	}
}
