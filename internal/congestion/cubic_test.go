package congestion

import (
	"math"
	"time"
)

// cubic is RFC 9438 with the slow start of RFC 9406 (without its conservative part), paced at 1.2 of its window in a
// round trip: the reference, and what others at the bottleneck run.
type cubic struct {
	window, limit float64 // bytes
	most, k       float64 // bytes, seconds
	friend        float64
	epoch         time.Duration
	missing       uint64
	cutAt         time.Duration
	rtt, min      time.Duration
	now           time.Duration
}

const cubicMSS = 1472

func (c *cubic) Reset(rtt, now time.Duration) {
	*c = cubic{window: 10 * cubicMSS, limit: math.Inf(1), rtt: rtt, min: rtt}
}

func (c *cubic) RoundTrip(rtt, now time.Duration) {
	if c.rtt == 0 {
		c.rtt = rtt
	}
	c.rtt += (rtt - c.rtt) / 8
	if c.min == 0 || rtt < c.min {
		c.min = rtt
	}
}

func (c *cubic) Report(s *Sample) {
	if s.RTT > 0 {
		c.RoundTrip(s.RTT, s.Now)
	}
	c.now = s.Now
	if s.Missing > c.missing && s.Now-c.cutAt > c.rtt {
		c.cutAt = s.Now
		if c.window < c.most {
			c.most = c.window * 0.85
		} else {
			c.most = c.window
		}
		c.window = max(c.window*0.7, 2*cubicMSS)
		c.limit, c.epoch = c.window, 0
	}
	c.missing = s.Missing
	if s.Limited || s.Flew < c.window/2 {
		return
	}
	if c.window < c.limit {
		c.window += s.Delivered
		if s.RTT > c.min+min(max(c.min/8, 4*time.Millisecond), 16*time.Millisecond) && c.window > 16*cubicMSS {
			c.limit = c.window
		}
		return
	}
	if c.epoch == 0 {
		c.epoch, c.friend = s.Now, c.window
		c.most = max(c.most, c.window)
		c.k = math.Cbrt((c.most - c.window) / cubicMSS / 0.4)
	}
	t := (s.Now - c.epoch + c.rtt).Seconds()
	target := min(max(cubicMSS*0.4*math.Pow(t-c.k, 3)+c.most, c.window), 1.5*c.window)
	c.friend += 3 * 0.3 / 1.7 * cubicMSS * s.Delivered / c.window
	c.window = max(c.window+(target-c.window)*s.Delivered/c.window, c.friend)
}

func (c *cubic) State() State {
	rate := c.window / max(c.rtt, time.Millisecond).Seconds()
	if c.rtt == 0 {
		rate = c.window / 0.1
	}
	pace := 1.2 * rate
	if c.window < c.limit {
		pace = 2 * rate
	}
	return State{Window: c.window, Steady: c.window, Pace: pace, Burst: max(pace*0.002, 10*cubicMSS), MinRTT: c.min}
}
