package simnet

import (
	"flag"
	"fmt"
	"math"
	"regexp"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/testtier"
)

// The sweep: one bulk copy and a 64-byte echo beside it, over paths of all sorts.
//
//	go test ./internal/simnet -run TestSweep -v                            a sample
//	go test ./internal/simnet -run TestSweep -v -timeout 1h -sweep.full    all of it
//	... -sweep.only '20M .*200ms'                                          lines that match
//	... -sweep.trace 100ms                                                 and how they came about

var (
	sweepFull  = flag.Bool("sweep.full", false, "sweep all paths, not a sample of them")
	sweepOnly  = flag.String("sweep.only", "", "sweep the paths whose line matches this regular expression")
	sweepTrace = flag.Duration("sweep.trace", 0, "print what the link knows and did at this interval")
	sweepSeed  = flag.Uint64("sweep.seed", 1, "what the paths' luck depends on")
)

var (
	rates  = []float64{0.3, 1, 5, 20, 50, 100, 300, 1000}
	trips  = []time.Duration{2, 10, 40, 100, 200, 400} // ms
	losses = []float64{0, 0.001, 0.01, 0.02, 0.05, 0.1}
	queues = []float64{0.5, 1, 2, 4}
	shakes = []float64{0, 0.1, 0.5}
)

const (
	pathMTU = 1500

	// headerShare of a packet of pathMTU is a stream's data: what is left of it by IP and UDP, the link
	// and KCP.
	headerShare = 0.945

	leastShare = 0.7  // of the rate, less the loss, for paths that hold ten packets
	mostSent   = 1.25 // bytes for each that must be
	mostCliff  = 0.15 // of the share between neighbours

	streamMemory = 80 << 20 // reliable's MaxBuffer

	burstRun = 6 // packets lost in a row, on average, where losses come in bursts
)

// A point is a path of the sweep, the same both ways.
type point struct {
	rate    float64 // Mbit/s
	rtt     time.Duration
	loss    float64 // each way
	queue   float64 // bandwidth-delay products, but four packets at least
	jitter  float64 // of the round trip, half of it each way
	ordered bool    // by jitter that does not reorder
	burst   bool    // losses
}

func (p point) String() string {
	s := fmt.Sprintf("%6gM %5v loss %4.4g%% queue %3g", p.rate, p.rtt, 100*p.loss, p.queue)
	switch {
	case p.burst:
		s += " in bursts  "
	case p.jitter > 0 && p.ordered:
		s += fmt.Sprintf(" jitter %2.f%% o", 100*p.jitter)
	case p.jitter > 0:
		s += fmt.Sprintf(" jitter %2.f%%  ", 100*p.jitter)
	default:
		s += "             "
	}
	return s
}

// bytesRate is the rate in bytes a second, packets how long so many take at it, and bdp how many are
// in flight when the path is full.
func (p point) byteRate() float64 { return p.rate * 1e6 / 8 }
func (p point) packets(n float64) time.Duration {
	return time.Duration(n * pathMTU / p.byteRate() * 1e9)
}
func (p point) bdp() float64 { return p.byteRate() * p.rtt.Seconds() / pathMTU }

func (p point) config() Config {
	c := Config{
		Rate: p.byteRate(), Delay: p.rtt / 2, MTU: pathMTU,
		Jitter: time.Duration(p.jitter * float64(p.rtt) / 2), Ordered: p.ordered,
	}
	c.Delay -= c.Jitter / 2 // so that rtt is the mean
	c.Queue = int(max(p.queue*p.bdp(), 4) * pathMTU)
	if p.burst {
		c.Burst = Burst{Enter: p.loss / (1 - p.loss) / burstRun, Leave: 1.0 / burstRun, Loss: 1}
	} else {
		c.Loss = p.loss
	}
	if p.rate >= 200 {
		c.Grain = 50 * time.Microsecond
	}
	return c
}

// times returns how long the copy runs before it is measured, and then for how long it is.
func (p point) times() (warm, during time.Duration) {
	warm = max(2*time.Second, 30*p.rtt, p.packets(60))
	if p.rate >= 200 { // where the packets cost time
		return warm, max(time.Second, 20*p.rtt)
	}
	return warm, max(4*time.Second, 40*p.rtt, p.packets(3000))
}

// A result is what a copy and the echo beside it did.
type result struct {
	share    float64       // data, of what such packets carry at the rate, less the loss
	sent     float64       // bytes for each byte that must be, the repair of the path's loss included
	full     time.Duration // until the copy had 90 % of that; 0 is never
	idle     time.Duration // the echo before the copy, median
	p50, p99 time.Duration // beside it
	gap      time.Duration // the longest in which the reader got nothing
	wait     time.Duration // in the queue of the bottleneck, median
	dropped  float64       // there, of those sent
	resent   float64       // by the link, of those that had to be
	spurious uint64
	mtu      int
	cost     time.Duration // of the simulation
}

const resultHead = "                                                share  sent    full   idle    p50    p99    gap  queue drop resent spur"

func (r result) String() string {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.0fms", float64(d)/1e6) }
	full := "never"
	if r.full > 0 {
		full = ms(r.full)
	}
	return fmt.Sprintf("%4.0f%% %5.2f %7s %6s %6s %6s %6s %6s %3.0f%% %6.2f %4d | %4d %5.1fs", 100*r.share, r.sent, full, ms(r.idle), ms(r.p50),
		ms(r.p99), ms(r.gap), ms(r.wait), 100*r.dropped, r.resent, r.spurious, r.mtu, r.cost.Seconds())
}

// measure copies over a path, in simulated time.
func measure(t *testing.T, p point, seed uint64) (r result) {
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, p.config(), p.config(), seed)
		defer w.close()
		// An echo takes 1 % of the rate at most.
		gap := max(5*time.Millisecond, p.packets(20))
		e := w.echo(t, gap, seed)
		time.Sleep(max(500*time.Millisecond, 10*p.rtt, 10*gap))
		r.idle, _ = e.take()

		warm, during := p.times()
		w.arrivals.begin(max(p.rtt/2, 20*time.Millisecond, p.packets(8)))
		w.copy(t)
		if *sweepTrace > 0 {
			w.wg.Go(func() { w.trace(t, *sweepTrace, warm+during) })
		}
		time.Sleep(warm)
		e.take()
		came, up, stats := w.arrivals.mark(), w.up.Counts(), w.la.Stats()
		time.Sleep(during)
		total, gapMost := w.arrivals.took()
		counts := w.up.Counts().Sub(up)
		after := w.la.Stats()
		if w.la.Err() != nil {
			t.Errorf("%v: %v", p, w.la.Err())
		}

		best := p.byteRate() * headerShare * (1 - p.loss)
		goodput := float64(total-came) / during.Seconds()
		r.share = goodput / best
		r.sent = float64(counts.SentBytes) / during.Seconds() * headerShare * (1 - p.loss) / goodput
		r.full = w.arrivals.reached(0.9 * best)
		r.gap = gapMost
		r.p50, r.p99 = e.take()
		r.wait = counts.Waits.Quantile(0.5)
		r.dropped = float64(counts.Dropped) / float64(counts.Sent)
		r.resent = float64(after.Resent-stats.Resent) / max(1, float64(counts.Dropped+counts.Lost))
		r.spurious = after.Spurious - stats.Spurious
		r.mtu = after.MTU
	})
	r.cost = time.Since(began)
	return r
}

// sample is what every run of the tests looks at.
func sample() []point {
	ms := time.Millisecond
	return []point{
		{rate: 20, rtt: 40 * ms, loss: 0, queue: 1},
		{rate: 20, rtt: 40 * ms, loss: 0.01, queue: 1},
		{rate: 1, rtt: 200 * ms, loss: 0.02, queue: 1},
		{rate: 5, rtt: 100 * ms, loss: 0.1, queue: 1},
		{rate: 50, rtt: 200 * ms, loss: 0.02, queue: 2},
		{rate: 100, rtt: 10 * ms, loss: 0.001, queue: 0.5},
		{rate: 0.3, rtt: 400 * ms, loss: 0, queue: 4},
		{rate: 20, rtt: 40 * ms, loss: 0, queue: 1, jitter: 0.5},
		{rate: 20, rtt: 100 * ms, loss: 0.01, queue: 1, jitter: 0.1, ordered: true},
		{rate: 20, rtt: 40 * ms, loss: 0.02, queue: 1, burst: true},
		{rate: 300, rtt: 40 * ms, loss: 0.001, queue: 1},
	}
}

// all is rates by round trips by losses, and around some of these the other axes.
func all() (points []point) {
	for _, rate := range rates {
		for _, rtt := range trips {
			for _, loss := range losses {
				points = append(points, point{rate: rate, rtt: rtt * time.Millisecond, loss: loss, queue: 1})
			}
		}
	}
	for _, rate := range []float64{1, 5, 20, 100} {
		for _, rtt := range []time.Duration{10, 40, 200} {
			for _, loss := range []float64{0, 0.01, 0.05} {
				p := point{rate: rate, rtt: rtt * time.Millisecond, loss: loss, queue: 1}
				for _, p.queue = range queues {
					if p.queue != 1 {
						points = append(points, p)
					}
				}
				p.queue = 1
				for _, p.jitter = range shakes[1:] {
					p.ordered = false
					points = append(points, p)
					p.ordered = true
					points = append(points, p)
				}
				if p.jitter, p.ordered, p.burst = 0, false, true; loss > 0 {
					points = append(points, p)
				}
			}
		}
	}
	return points
}

func TestSweep(t *testing.T) {
	points := sample()
	switch {
	case *sweepFull:
		points = all()
	case !testtier.IsLong():
		points = points[:4]
	}
	only, err := regexp.Compile(*sweepOnly)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", resultHead)
	results := make(map[point]result)
	for _, p := range points {
		if !only.MatchString(p.String()) {
			continue
		}
		r := measure(t, p, *sweepSeed)
		results[p] = r
		t.Logf("%v %v", p, r)
	}
	for _, p := range points {
		if r, ok := results[p]; ok {
			judge(t, p, r)
		}
	}
	cliffs(t, results)
}

// least is the share of the rate that a path must give: leastShare, or as much of it as a stream's memory allows.
// A flow in order waits for a lost packet until that was sent again, for a round trip each time, and keeps what
// comes meanwhile.
func (p point) least() float64 {
	need := p.bdp() * pathMTU
	if p.loss > 0 {
		need *= 1 + 1.25*math.Log(p.bdp())/-math.Log(p.loss)
	}
	return leastShare * min(1, streamMemory/need)
}

// judge holds a result against what every path must give.
func judge(t *testing.T, p point, r result) {
	t.Helper()
	if p.bdp() < 10 {
		return
	}
	if least := p.least(); r.share < least {
		t.Errorf("%v: %.0f %% of the rate, want %.0f %%", p, 100*r.share, 100*least)
	}
	if r.sent > mostSent {
		t.Errorf("%v: sent %.2f bytes for one, want %.2f", p, r.sent, mostSent)
	}
}

// cliffs reports neighbours, which differ in one step along one axis, of which one does much worse.
func cliffs(t *testing.T, results map[point]result) {
	t.Helper()
	for p, r := range results {
		for _, q := range neighbours(p) {
			s, ok := results[q]
			if !ok || p.bdp() < 10 || q.bdp() < 10 || p.least() < leastShare {
				continue
			}
			if d := math.Abs(r.share - s.share); d > mostCliff && r.share < s.share {
				t.Errorf("cliff: %v %.0f %%, but %v %.0f %%", p, 100*r.share, q, 100*s.share)
			}
		}
	}
}

// neighbours returns the paths that are one step away on one axis.
func neighbours(p point) (near []point) {
	add := func(change func(q *point)) {
		q := p
		change(&q)
		near = append(near, q)
	}
	for _, v := range beside(rates, p.rate) {
		add(func(q *point) { q.rate = v })
	}
	for _, v := range beside(trips, p.rtt/time.Millisecond) {
		add(func(q *point) { q.rtt = v * time.Millisecond })
	}
	for _, v := range beside(losses, p.loss) {
		add(func(q *point) { q.loss = v })
	}
	for _, v := range beside(queues, p.queue) {
		add(func(q *point) { q.queue = v })
	}
	return near
}

// beside returns those before and after v.
func beside[T comparable](list []T, v T) (near []T) {
	for i, x := range list {
		if x == v {
			near = append(near, list[max(i-1, 0):i]...)
			near = append(near, list[i+1:min(i+2, len(list))]...)
		}
	}
	return near
}
