package congestion

import (
	"math"
	"time"
)

// Others at the bottleneck. Where the queue does not empty although each cycle drains what this sender
// put there, it yields: it keeps little more in flight than the path holds (yieldWindow). It goes on for
// long after the queue is gone, for all who yield see it go; if it is alone by then, probing finds out.
//
// Others may fill the queue. A sender that keeps the queue empty starves beside one that fills it
// (TCP with CUBIC or Reno), and one that takes the filled queue for the path's base round trip starves
// the other. So where the queue did not empty for several cycles of probing and draining, and overflows
// or is deeper than two links of this kind make it, the window follows the same rule as theirs (CUBIC,
// RFC 9438), until the queue was seen empty again. Copa (Arun and Balakrishnan, NSDI 2018, §4.2)
// switches in the same way. A loss takes 15 % instead of CUBIC's 30, and the window grows twice as
// fast: it comes late to where the queue is full already, and phaseRTT takes its part every ten seconds.
const (
	crowdRounds = 12
	yieldRounds = 8
	yieldFor    = 256 // rounds without a queue
	yieldTime   = 40 * time.Millisecond
	cubicBeta   = 0.85
	cubicC      = 0.8 // packets / s³, twice RFC 9438's
	cubicFriend = 3 * (1 - cubicBeta) / (1 + cubicBeta)
	floorFor    = time.Minute
)

// A crowd is what is known of others at the bottleneck.
type crowd struct {
	rounds int           // in which the queue never emptied
	yield  int           // more rounds with an empty queue until the others are taken for gone
	window float64       // bytes in flight, while others fill the queue; else 0
	before float64       // in flight when they came
	most   float64       // window at the last loss
	since  time.Duration // the last loss
	friend float64       // what Reno's window would be
	calm   int           // rounds that do not count after a loss
}

// onCrowd takes in a round trip's loss, before it becomes part of c.loss.
func (c *Control) onCrowd(loss float64, now time.Duration) {
	w := &c.crowd
	if !c.start.filled || c.trips.recent == 0 || !c.standing(c.trips.recent) {
		yield := max(w.yield-1, 0)
		if !c.start.filled || w.window > 0 {
			yield = 0 // who fills a queue does not yield, and takes what a small window leaves
		}
		*w = crowd{yield: yield}
		return
	}
	if w.rounds++; w.rounds == 1 {
		w.before = c.flying
	}
	if w.rounds >= yieldRounds {
		w.yield = yieldFor
	}
	w.calm = max(w.calm-1, 0)
	lossy := loss > 2*c.loss.share && w.calm == 0
	switch {
	case w.window == 0:
		if w.rounds < crowdRounds || !lossy && !c.standing(c.trips.recent-c.trips.floor.value()) {
			return
		}
		w.cut(max(c.flying, w.before, leastWindow)/cubicBeta, now)
	case lossy:
		w.cut(w.window, now)
	default:
		t := (now - w.since + c.trips.smoothed).Seconds()
		k := math.Cbrt(w.most * (1 - cubicBeta) / packetBytes / cubicC)
		cube := w.most + packetBytes*cubicC*math.Pow(t-k, 3)
		w.friend += packetBytes * cubicFriend
		w.window = max(min(cube, 1.5*w.window), w.friend, w.window)
	}
}

// yieldWindow keeps little more in flight than the path holds without a queue: about as many packets
// too many for all, so that those who have more yield more (Vegas). Of what arrives in an interval of
// feedback half is not reported yet, on average, and what jitters is on its way for longer.
func (c *Control) yieldWindow() float64 {
	most := 4 + math.Sqrt(c.rate.most/packetBytes*yieldTime.Seconds())
	return c.rate.most*(c.trips.floor.value()+FeedbackInterval(c.trips.min)/2+4*c.trips.noise).Seconds() + most*packetBytes
}

func (w *crowd) cut(window float64, now time.Duration) {
	if window < w.most {
		w.most = window * (1 + cubicBeta) / 2 // fast convergence
	} else {
		w.most = window
	}
	w.window = max(window*cubicBeta, leastWindow)
	w.friend, w.since, w.calm = w.window, now, 3
}

// A floor is the lowest round trip of the last one to two floorFor. It outlives a queue that stands for
// longer than congestion.minRTT is believed.
type floor struct {
	cur, last time.Duration
	since     time.Duration
}

func (f *floor) add(rtt, now time.Duration) {
	if now-f.since > floorFor {
		f.last, f.cur, f.since = f.cur, 0, now
	}
	if f.cur == 0 || rtt < f.cur {
		f.cur = rtt
	}
}

func (f *floor) value() time.Duration {
	if f.last != 0 && (f.cur == 0 || f.last < f.cur) {
		return f.last
	}
	return f.cur
}
