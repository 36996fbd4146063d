package congestion

import (
	"math/rand/v2"
	"testing"
	"time"

	"adit/internal/simnet"
)

// A liar wants all to be sent at once, whatever is reported.
type liar struct{}

func (liar) Reset(rtt, now time.Duration)     {}
func (liar) RoundTrip(rtt, now time.Duration) {}
func (liar) Report(s *Sample)                 {}
func (liar) State() State {
	return State{Window: 1e12, Steady: 1e12, Pace: 1e10, Burst: 1e9}
}

// The ceiling holds whatever the controller believes.
func TestCeiling(t *testing.T) {
	for _, c := range []scene{
		{name: "1 Mbit/s", mbit: 1, rtt: 30 * ms, queue: 200 * ms},
		{name: "50 Mbit/s, shallow", mbit: 50, rtt: 40 * ms, bytes: 10000},
		{name: "beside a call", mbit: 1, rtt: 30 * ms, queue: 200 * ms, call: 0.8},
		{name: "two", mbit: 1, rtt: 30 * ms, queue: 200 * ms, two: time.Second},
		{name: "far", mbit: 10, rtt: 600 * ms, queue: 300 * ms},
		{name: "1 % loss", mbit: 10, rtt: 50 * ms, queue: 50 * ms, conf: func(c *simnet.Config) { c.Loss = 0.01 }},
		{name: "30 % loss", mbit: 10, rtt: 50 * ms, queue: 50 * ms, conf: func(c *simnet.Config) { c.Loss = 0.3 }},
		{name: "60 % loss", mbit: 10, rtt: 50 * ms, queue: 50 * ms, conf: func(c *simnet.Config) { c.Loss = 0.6 }},
		{name: "policer", mbit: 100, rtt: 20 * ms, queue: 50 * ms, conf: func(c *simnet.Config) { c.Police = simnet.Police{Rate: 1e6, Burst: 50000} }},
		{name: "stalls", mbit: 20, rtt: 20 * ms, queue: 50 * ms, conf: func(c *simnet.Config) { c.Stall = simnet.Stall{Every: time.Second, For: 300 * ms} }},
		{name: "swings", mbit: 20, rtt: 50 * ms, queue: 200 * ms, conf: func(c *simnet.Config) {
			c.Swing = simnet.Swing{Every: 100 * ms, Least: 125e3, Most: 6e6}
		}},
		{name: "falls", mbit: 20, rtt: 50 * ms, queue: 200 * ms, steps: []step{{at: 15 * time.Second, up: func(c *simnet.Config) { c.Rate = 1e6 / 8 }}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(3) {
				o := c.play(func(*rand.Rand) Controller { return liar{} }, seed)
				t.Log(o)
				if c.name == "60 % loss" { // what is sent decays to a trickle
					if sent := o.share * o.wire; sent > 0.2 {
						t.Errorf("sent %.2f of the rate, want 0.2", sent)
					}
					continue
				}
				if o.most > 1.5 {
					t.Errorf("sent %.2f times what was reported, want 1.5", o.most)
				}
				if c.two == 0 && c.call == 0 && o.share < 0.3 && c.bytes == 0 {
					t.Errorf("%.0f %% of the rate arrives: the ceiling chokes", 100*o.share)
				}
			}
		})
	}
}
