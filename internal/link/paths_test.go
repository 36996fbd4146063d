// In package link: this file uses the network in memory of sim_test.go.

package link

import (
	"fmt"
	"testing"
	"time"

	"adit/internal/testtier"
)

// A path is a bottleneck and what a bulk flow of keyed payloads should make of it.
type path struct {
	mbit   float64
	rtt    time.Duration
	queue  float64 // of bandwidth-delay products, and room for five packets
	loss   float64
	jitter float64 // of the round trip

	share float64       // of the rate that payloads should get once the start is over
	drops int           // at the queue during the start, at most
	wait  time.Duration // p99 in the queue after the start, at most; 0 is not looked at
}

func (p path) String() string {
	return fmt.Sprintf("%v Mbit per s %v %v BDP %v %% %v jitter", p.mbit, p.rtt, p.queue, 100*p.loss, p.jitter)
}

// A run is what came of it.
type run struct {
	drops    int
	mbit     float64
	p50, p99 time.Duration
	stats    Stats
}

// run sends for d after a start of 25 round trips, a second at least.
func (p path) run(t *testing.T, d time.Duration) (r run) {
	rate := p.mbit * 1e6 / 8
	queue := max(int(rate*p.rtt.Seconds()*p.queue), 5*1300)
	s := shape{rate: rate, queue: queue, delay: p.rtt / 2, loss: p.loss, jitter: time.Duration(p.jitter * float64(p.rtt))}
	back := shape{rate: rate, queue: max(queue, 100000), delay: p.rtt / 2, loss: p.loss}
	pair := newPair(t, s, back, func(a, b *Config) { a.ReceiveBuffer, b.ReceiveBuffer = 16<<20, 16<<20 })
	defer pair.close()
	var m meter
	pair.b.Receive(m.take)
	pair.up(t)
	f := feed(pair.a, 1)
	defer f.stop()
	time.Sleep(max(25*p.rtt, time.Second))
	pair.ab.set(func(q *pipe) { r.drops = q.dropped - q.lost })
	pair.ab.queueing()
	m.reset()
	time.Sleep(d)
	r.mbit = mbit(m.reset()[1], d)
	r.p50, r.p99 = pair.ab.queueing()
	r.stats = pair.a.Stats()
	return r
}

// Startup ends at the first sign of a queue, not at loss; loss at random does not cost more than
// itself; and there is no standing queue afterwards.
func TestPaths(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for i, p := range []path{
		{100, 40 * ms, 1, 0, 0, 0.9, 20, 25 * ms}, // W1
		{100, 40 * ms, 1, 0.05, 0, 0.8, 150, 25 * ms},
		{20, 40 * ms, 2, 0, 0, 0.9, 5, 25 * ms}, // W4
		{100, 40 * ms, 1, 0.1, 0, 0.7, 150, 25 * ms},
		{100, 40 * ms, 1, 0.2, 0, 0.6, 150, 25 * ms},
		{100, 40 * ms, 0.5, 0, 0, 0.9, 150, 25 * ms},
		{100, 40 * ms, 4, 0, 0, 0.9, 0, 25 * ms},
		{100, 40 * ms, 1, 0, 0.1, 0.9, 250, 0},
		{100, 40 * ms, 1, 0, 0.5, 0.85, 300, 0},
		{50, 200 * ms, 1, 0.02, 0, 0.85, 100, 0}, // W3
		{1, 4 * ms, 1, 0, 0, 0.9, 30, 60 * ms},
		{1, 40 * ms, 1, 0, 0, 0.9, 20, 60 * ms},
		{1, 400 * ms, 1, 0.05, 0, 0.8, 30, 0},
		{10, 4 * ms, 0.5, 0, 0, 0.9, 30, 25 * ms},
		{10, 400 * ms, 1, 0, 0, 0.9, 150, 0},
		{1000, 4 * ms, 1, 0, 0, 0.9, 450, 25 * ms},
		{1000, 40 * ms, 1, 0.01, 0, 0.85, 500, 25 * ms},
	} {
		t.Run(p.String(), func(t *testing.T) {
			if i != 2 {
				testtier.Long(t)
			}
			d := 8 * time.Second
			if p.mbit >= 1000 {
				d = time.Second
			}
			trials(t, func(t *trial) {
				r := p.run(t.T, d)
				t.Logf("%d dropped in the start; then %.1f Mbit/s, in the queue p50 %v, p99 %v; spurious %d", r.drops, r.mbit, r.p50, r.p99, r.stats.Spurious)
				if r.mbit < p.share*p.mbit {
					t.Errorf("%.1f Mbit/s, want %.1f at least", r.mbit, p.share*p.mbit)
				}
				if r.drops > p.drops {
					t.Errorf("%d packets dropped at the queue in the start, want %d at most", r.drops, p.drops)
				}
				if p.wait > 0 && r.p99 > p.wait {
					t.Errorf("p99 of the queue %v, want %v at most", r.p99, p.wait)
				}
			})
		})
	}
}
