package congestion

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"adit/internal/simnet"
	"adit/internal/testtier"
)

var (
	randoms = flag.Int("scenes", 0, "play so many random scenes; 0 is 60, in the long tier 400")
	first   = flag.Uint64("scene", 1, "the first of them")
)

// known are the scenes that still break an invariant: a rate that falls to a fraction, a few packets a second beside
// others, and grants or jitter of several round trips (docs/congestion.md).
var known = map[uint64]bool{354: true, 477: true, 792: true, 1010: true, 1023: true, 1794: true, 1953: true, 2248: true, 2514: true, 2672: true, 3475: true, 4309: true}

// draw makes a scene of a seed.
func draw(seed uint64) scene {
	r := rand.New(rand.NewPCG(seed, 7))
	between := func(a, b float64) float64 { return a * math.Pow(b/a, r.Float64()) }
	one := func(n int) bool { return r.IntN(n) == 0 }
	c := scene{
		mbit: between(0.3, 50), rtt: time.Duration(between(4, 400) * 1e6),
		queue: time.Duration(between(15, 1500) * 1e6), warm: 15 * time.Second, during: 15 * time.Second,
	}
	c.warm = max(c.warm, 40*c.rtt)
	var loss, double float64
	var jitter, grant time.Duration
	var ordered bool
	var stall simnet.Stall
	var swing simnet.Swing
	if one(3) {
		loss = between(0.001, 0.05)
	}
	if one(8) {
		double = r.Float64()
	}
	if one(4) {
		jitter, ordered = time.Duration(between(1, 30)*1e6), one(2)
	}
	if one(10) {
		grant = time.Duration(between(2, 30) * 1e6)
	}
	if one(8) {
		stall.Every = time.Duration(between(100, 5000) * 1e6)
		stall.For = time.Duration(between(0.02, 0.3) * float64(stall.Every))
	}
	if one(8) {
		swing = simnet.Swing{Every: time.Duration(between(50, 2000) * 1e6), Least: c.mbit / 6 * 1e6 / 8, Most: c.mbit * 1e6 / 8}
	}
	c.conf = func(conf *simnet.Config) {
		conf.Loss, conf.Double, conf.Jitter, conf.Ordered = loss, double, jitter, ordered
		conf.Grant, conf.Stall, conf.Swing = grant, stall, swing
	}
	switch r.IntN(10) {
	case 0, 1:
		c.call = c.mbit * between(0.1, 0.9)
	case 2:
		c.call, c.on, c.off = c.mbit*between(0.1, 0.9), time.Duration(between(0.2, 5)*1e9), time.Duration(between(0.2, 5)*1e9)
	case 3:
		c.cubic = 1 + r.IntN(4)
	case 4:
		c.bbr = 1
	case 5, 6:
		c.two = time.Duration(r.Int64N(int64(10 * time.Second)))
	}
	if one(4) {
		c.limit = c.mbit * between(0.05, 1)
	}
	if one(4) {
		at := time.Duration(between(5, 20) * 1e9)
		to := time.Duration(between(2, 200) * 1e6)
		rate := c.rate() * between(0.05, 1)
		if one(2) {
			c.steps = []step{{at: at, up: func(conf *simnet.Config) { conf.Delay = to }}}
		} else if swing.Every == 0 {
			c.steps = []step{{at: at, up: func(conf *simnet.Config) { conf.Rate = rate }}}
		}
	}
	c.name = fmt.Sprintf("scene %d: %.2f Mbit/s %v queue %v loss %.3f double %.1f jitter %v %v grant %v stall %v swing %v call %.2f %v %v cubic %d bbr %d two %v limit %.2f steps %d",
		seed, c.mbit, c.rtt.Round(ms), c.queue.Round(ms), loss, double, jitter.Round(ms), ordered, grant.Round(ms), stall, swing.Every.Round(ms), c.call, c.on.Round(ms), c.off.Round(ms), c.cubic, c.bbr, c.two.Round(ms), c.limit, len(c.steps))
	return c
}

// TestRandomScenes asserts on scenes that nobody chose what must hold on every link.
func TestRandomScenes(t *testing.T) {
	n := *randoms
	switch {
	case n > 0:
	case testtier.IsLong():
		n = 400
	default:
		n = 60
	}
	broken := 0
	for seed := *first; seed < *first+uint64(n); seed++ {
		c := draw(seed)
		o := c.play(candidates()[0].make, seed)
		for _, w := range invariants(&c, o) {
			broken++
			if known[seed] {
				t.Logf("known: %s: %s; %v", c.name, w, o)
				continue
			}
			t.Errorf("%s: %s; %v", c.name, w, o)
		}
	}
	t.Logf("%d of %d scenes with a broken invariant", broken, n)
}

// invariants says which ones an outcome breaks. What a path loses anyway, the sender has to send in addition.
func invariants(c *scene, o outcome) (broken []string) {
	conf := c.config()
	anyway := 1 / (1 - conf.Loss)
	if o.most > 1.5 {
		broken = append(broken, fmt.Sprintf("sent %.2f times what was reported, want 1.5", o.most))
	}
	// Where the queue holds a few packets, or others leave less than a few in a round trip, their losses are the others'.
	lowest := min(up(&conf), conf.Rate)
	room := lowest - c.call*1e6/8*1.1
	for _, st := range c.steps {
		changed := conf
		st.up(&changed)
		room = min(room, changed.Rate-c.call*1e6/8*1.1)
	}
	room /= float64(1 + 2*(c.cubic+c.bbr) + int(min(c.two, 1)))
	few := conf.Queue < 10*1500 || room*(c.rtt.Seconds()+float64(conf.Queue)/lowest) < 4*1500
	most := 1.25 * anyway
	if c.bbr > 0 || conf.Swing.Every > 0 { // BBR keeps the queue full; a rate that falls six times faster than it is told drops what flies
		most = 1.75
	}
	if o.wire > most && !few && (c.limit == 0 || c.limit*1e6/8*c.rtt.Seconds() > 4*1500) {
		broken = append(broken, fmt.Sprintf("sent %.2f bytes for one, want %.2f", o.wire, most))
	}
	alone := c.call == 0 && c.cubic+c.bbr+c.copies == 0 && c.two == 0 && len(c.steps) == 0
	least := 0.5
	if conf.Stall.Every > 0 {
		least *= 1 - conf.Stall.For.Seconds()/conf.Stall.Every.Seconds()
	}
	if c.limit > 0 {
		least *= c.limit / c.mbit
	}
	if conf.Swing.Every > 0 {
		least *= 0.5
	}
	if alone && o.share < least {
		broken = append(broken, fmt.Sprintf("%.2f of the rate, want %.2f", o.share, least))
	}
	return broken
}

// up is the lowest rate of a line.
func up(c *simnet.Config) float64 {
	if c.Swing.Every > 0 {
		return c.Swing.Least
	}
	return c.Rate
}
