package congestion

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"testing"
	"time"

	"adit/internal/simnet"
	"adit/internal/testtier"
)

var (
	contest = flag.String("contest", "", "play the scenes that match this regular expression with all candidates and print a table")
	seeds   = flag.Uint64("seeds", 1, "play each that often")
	only    = flag.String("candidate", "", "with only this one of them")
)

// A row is a scene and what must come of it.
type row struct {
	scene
	least   float64       // share
	wire    float64       // at most; 0 is 1.25
	even    bool          // both senders get 30 to 70 %
	fair    [2]float64    // of a fair share
	lost    float64       // by the call, at most
	late    time.Duration // its packets, at most
	wait    time.Duration // of our packets, 99th percentile, at most
	settled time.Duration // likewise, median
	back    float64       // share of the other direction, at least
	but     *row          // what is asserted in place of it: the rest is not reached yet
}

// judge says what is wrong with an outcome.
func (r *row) judge(o outcome) (wrong []string) {
	not := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	wire := r.wire
	if wire == 0 {
		wire = 1.25
	}
	not(o.share >= r.least, "%.0f %% of the rate, want %.0f", 100*o.share, 100*r.least)
	not(o.wire <= wire, "sent %.2f bytes for one, want %.2f", o.wire, wire)
	not(o.most <= 1.5, "sent %.2f times what was reported, want 1.5", o.most)
	if r.even {
		x := o.each[0] / (o.each[0] + o.each[1])
		not(x >= 0.3 && x <= 0.7, "%.0f %% for the first of two, want 30 to 70", 100*x)
	}
	if r.fair[1] > 0 {
		not(o.fair >= r.fair[0] && o.fair <= r.fair[1], "%.2f of a fair share, want %v", o.fair, r.fair)
	}
	not(r.lost == 0 || o.lost <= r.lost, "the call loses %.2f %%, want %.1f", 100*o.lost, 100*r.lost)
	not(r.late == 0 || o.late <= r.late, "the call is %v late, want %v", o.late, r.late)
	not(r.wait == 0 || o.wait[1] <= r.wait, "packets wait %v, want %v", o.wait[1], r.wait)
	not(r.settled == 0 || o.wait[0] <= r.settled, "half of the packets wait for more than %v, want %v", o.wait[0], r.settled)
	not(o.back >= r.back, "%.0f %% of the other direction, want %.0f", 100*o.back, 100*r.back)
	return wrong
}

// rows are the scenes of docs/congestion.md.
func rows() (list []row) {
	add := func(r row, format string, args ...any) {
		r.name = fmt.Sprintf(format, args...)
		list = append(list, r)
	}
	loss := func(p float64) func(c *simnet.Config) { return func(c *simnet.Config) { c.Loss = p } }
	for _, mbit := range []float64{0.5, 1, 2, 5} {
		for _, queue := range []time.Duration{50, 200, 1000} {
			add(row{scene: scene{mbit: mbit, rtt: 30 * ms, queue: queue * ms, two: 3 * time.Second, warm: 20 * time.Second, during: 60 * time.Second}, even: true, least: 0.9},
				"two, %v Mbit/s, queue %v", mbit, queue*ms)
		}
	}
	for _, mbit := range []float64{0.5, 1, 2, 5, 20} {
		for _, part := range []float64{0.1, 0.4, 0.9} {
			r := row{scene: scene{mbit: mbit, rtt: 30 * ms, queue: 200 * ms, call: part * mbit}, least: 0.75, lost: 0.01}
			if part*mbit > mbit-0.2 { // a packet in a round trip is too much for what is left
				r.but = &row{least: 0.75, lost: 0.08, wire: 1.8}
			}
			add(r, "call of %.0f %% of %v Mbit/s", 100*part, mbit)
		}
	}
	for _, queue := range []time.Duration{100, 200, 1000} {
		add(row{scene: scene{mbit: 1, rtt: 30 * ms, queue: queue * ms, call: 0.08}, least: 0.75, lost: 0.005, late: 60 * ms}, "VoIP on 1 Mbit/s, queue %v", queue*ms)
	}
	for _, mbit := range []float64{1, 2, 10, 20} {
		for _, n := range []int{1, 4} {
			r := row{scene: scene{mbit: mbit, rtt: 30 * ms, queue: 200 * ms, cubic: n, warm: 20 * time.Second, during: 60 * time.Second}, fair: [2]float64{0.5, 2}, least: 0.9}
			if n == 4 && mbit < 20 {
				r.but = &row{fair: [2]float64{0.5, 3.3}, least: 0.9}
			}
			add(r, "%d CUBIC, %v Mbit/s", n, mbit)
		}
		add(row{scene: scene{mbit: mbit, rtt: 30 * ms, queue: 200 * ms, bbr: 1, warm: 20 * time.Second, during: 60 * time.Second}, least: 0.85}, "1 BBR, %v Mbit/s", mbit)
	}
	for _, mbit := range []float64{20, 100} {
		for _, to := range []time.Duration{30, 60, 150} {
			for _, p := range []float64{0, 0.003, 0.01} {
				add(row{scene: scene{mbit: mbit, rtt: 20 * ms, later: to * ms, queue: 60 * ms, conf: loss(p), warm: 25 * time.Second, during: 40 * time.Second, steps: []step{
					{at: 15 * time.Second, up: func(c *simnet.Config) { c.Delay += (to - 20) * ms }}}}, least: 0.85, settled: 20 * ms},
					"20 to %v ms at %v Mbit/s, loss %v %%", int(to), mbit, 100*p)
			}
		}
	}
	back := scene{mbit: 20, rtt: 20 * ms, queue: 60 * ms, conf: loss(0.01), warm: 15 * time.Second, during: 60 * time.Second}
	for i := range 5 {
		d := []time.Duration{70 * ms, 10 * ms}[i%2]
		back.steps = append(back.steps, step{at: time.Duration(i+1) * 15 * time.Second, up: func(c *simnet.Config) { c.Delay = d }})
	}
	add(row{scene: back, least: 0.85}, "20 and 80 ms each 15 s, 1 %%")
	for _, j := range []time.Duration{5, 10, 20} {
		add(row{scene: scene{mbit: 50, rtt: 40 * ms, queue: 60 * ms, conf: func(c *simnet.Config) { c.Jitter, c.Ordered = j*ms, true }}, least: 0.93, but: &row{least: 0.83}}, "in-order jitter of %v", j*ms)
	}
	add(row{scene: scene{mbit: 100, rtt: 40 * ms, queue: 100 * ms, during: 60 * time.Second, conf: func(c *simnet.Config) {
		c.Jitter, c.Ordered = 20*ms, true
		c.Stall = simnet.Stall{Every: 15 * time.Second, For: 100 * ms}
		c.Swing = simnet.Swing{Every: 15 * time.Second, Least: 50e6 / 8, Most: 200e6 / 8}
	}}, least: 0.85}, "Starlink")
	for _, queue := range []time.Duration{100, 300} {
		for _, trip := range []time.Duration{50, 150} {
			add(row{scene: scene{mbit: 12.5, rtt: trip * ms, queue: queue * ms, during: 60 * time.Second, conf: func(c *simnet.Config) {
				c.Swing = simnet.Swing{Every: 100 * ms, Least: 1e6 / 8, Most: 50e6 / 8}
			}}, least: 0.6, wait: 350*ms - trip*ms, but: &row{least: 0.58, wait: 750 * ms}}, "LTE, %v, queue %v", trip*ms, queue*ms)
		}
	}
	for _, trip := range []time.Duration{20, 40, 100} {
		add(row{scene: scene{mbit: 50, rtt: trip * ms, queue: 60 * ms, conf: func(c *simnet.Config) { c.Grant = 20 * ms }}, least: 0.9, but: &row{least: 0.83}}, "grants, %v", trip*ms)
	}
	add(row{scene: scene{mbit: 100, rtt: 20 * ms, bytes: 5 * 1500, during: 10 * time.Second}, least: 0.8}, "5 packets at 100 Mbit/s")
	add(row{scene: scene{mbit: 1000, rtt: 10 * ms, bytes: 10 * 1500, warm: 4 * time.Second, during: 4 * time.Second}, least: 0.5, but: &row{least: 0.45}}, "10 packets at 1 Gbit/s")
	for _, x := range [][2]float64{{100, 1}, {40, 1}, {20, 1}, {50, 5}, {300, 5}} {
		add(row{scene: scene{mbit: x[0], down: x[1], both: true, rtt: 20 * ms, queue: 200 * ms, during: 10 * time.Second}, least: 0.85, back: 0.7, wait: 250 * ms, but: &row{least: 0.85, back: 0.5, wait: 250 * ms}}, "both ways, %v/%v", x[0], x[1])
	}
	fall := []step{{at: 10 * time.Second, up: func(c *simnet.Config) { c.Rate, c.Queue = 2e6/8, 100000 }}, {at: 20 * time.Second, up: func(c *simnet.Config) { c.Rate, c.Queue = 100e6/8, 1000000 }}}
	add(row{scene: scene{mbit: 100, rtt: 40 * ms, queue: 80 * ms, steps: fall, warm: 11 * time.Second, during: 9 * time.Second}, wait: 460 * ms}, "100 to 2 Mbit/s")
	add(row{scene: scene{mbit: 100, rtt: 40 * ms, queue: 80 * ms, steps: fall, warm: 22 * time.Second, during: 5 * time.Second}, least: 0.9}, "back to 100 Mbit/s")
	// What held.
	add(row{scene: scene{mbit: 20, rtt: 600 * ms, queue: 600 * ms, conf: loss(0.01)}, least: 0.93}, "GEO, 600 ms, 1 %%")
	add(row{scene: scene{mbit: 0.056, rtt: 600 * ms, queue: 4 * time.Second}, least: 0.88}, "GPRS")
	add(row{scene: scene{mbit: 100, rtt: 20 * ms, queue: 50 * ms, conf: func(c *simnet.Config) { c.Police = simnet.Police{Rate: 10e6 / 8, Burst: 50000} }}, least: 0.93}, "policer")
	add(row{scene: scene{mbit: 20, rtt: 40 * ms, queue: 40 * ms, conf: func(c *simnet.Config) { c.Double = 1 }}, least: 0.95}, "duplicates")
	add(row{scene: scene{mbit: 20, rtt: 40 * ms, queue: 40 * ms, conf: func(c *simnet.Config) { c.Burst = simnet.Burst{Enter: 0.0034, Leave: 1.0 / 6, Loss: 1} }}, least: 0.9}, "bursts of loss")
	add(row{scene: scene{mbit: 20, rtt: 10 * ms, queue: 60 * ms, conf: func(c *simnet.Config) { c.Stall = simnet.Stall{Every: 200 * ms, For: 30 * ms} }}, least: 0.88}, "Wi-Fi stalls")
	add(row{scene: scene{mbit: 100, rtt: 40 * ms, queue: 40 * ms}, least: 0.97, wait: 20 * ms}, "W1")
	add(row{scene: scene{mbit: 100, rtt: 40 * ms, queue: 40 * ms, conf: loss(0.01)}, least: 0.95}, "W2")
	add(row{scene: scene{mbit: 50, rtt: 200 * ms, queue: 200 * ms, conf: loss(0.02)}, least: 0.95}, "W3")
	add(row{scene: scene{mbit: 20, rtt: 40 * ms, queue: 80 * ms}, least: 0.97, wait: 20 * ms}, "W4")
	add(row{scene: scene{mbit: 100, rtt: 40 * ms, queue: 40 * ms, conf: loss(0.05)}, least: 0.92}, "loss5")
	add(row{scene: scene{mbit: 100, rtt: 40 * ms, queue: 40 * ms, conf: loss(0.1)}, least: 0.85}, "loss10")
	add(row{scene: scene{mbit: 20, rtt: 40 * ms, queue: 80 * ms, cubic: 1, during: 50 * time.Second}, fair: [2]float64{0.6, 1.4}, least: 0.95}, "fair")
	add(row{scene: scene{mbit: 100, rtt: 40 * ms, queue: 40 * ms, two: 2 * time.Second}, even: true, least: 0.94}, "two")
	return list
}

func candidates() []struct {
	name string
	make func(*rand.Rand) Controller
} {
	return []struct {
		name string
		make func(*rand.Rand) Controller
	}{
		{"adit", func(r *rand.Rand) Controller { return &Control{Random: r.IntN} }},
		{"bbr", func(r *rand.Rand) Controller { return &bbr{random: r.IntN} }},
		{"cubic", func(*rand.Rand) Controller { return new(cubic) }},
	}
}

// TestScenes plays the scenes that the controller was chosen by. The short tier plays those that cost little.
func TestScenes(t *testing.T) {
	for _, r := range rows() {
		if !testtier.IsLong() && (r.mbit > 5 || r.cubic+r.bbr > 0) {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			o := r.play(candidates()[0].make, 1)
			t.Log(o)
			asserted := &r
			if r.but != nil {
				asserted = r.but
			}
			for _, w := range asserted.judge(o) {
				t.Error(w)
			}
		})
	}
}

// TestContest plays the scenes with all candidates.
func TestContest(t *testing.T) {
	if *contest == "" {
		t.Skip("-contest asks for it")
	}
	match := regexp.MustCompile(*contest)
	fails := map[string]int{}
	for _, r := range rows() {
		if !match.MatchString(r.name) {
			continue
		}
		for _, c := range candidates() {
			if *only != "" && c.name != *only {
				continue
			}
			for seed := range *seeds {
				o := r.play(c.make, seed+1)
				wrong := r.judge(o)
				fails[c.name] += min(len(wrong), 1)
				fmt.Printf("%-36s %-6s %v %v\n", r.name, c.name, o, wrong)
			}
		}
	}
	fmt.Println("rows that fail:", fails)
}
