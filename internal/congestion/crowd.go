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
// fast: it comes late to where the queue is full already, and looks take their part.
const (
	crowdRounds = 12                                    // round trips with a queue, before others are taken to fill it: a cycle and a half
	yieldRounds = 8                                     // the same before the sender yields: a cycle
	yieldFor    = 64                                    // round trips without a queue, until it no longer yields
	yieldGain   = 0.9                                   // of the pace, while the queue overflows: a small window may be too large
	yieldTime   = 40 * time.Millisecond                 // worth of packets, the root of which is kept in flight in addition: see spare
	cubicBeta   = 0.85                                  // of the window, after a loss
	cubicC      = 0.8                                   // packets / s³, twice RFC 9438's
	cubicFriend = 3 * (1 - cubicBeta) / (1 + cubicBeta) // packets in a round trip: RFC 9438 §4.3
)

// A crowd is what is known of others at the bottleneck.
type crowd struct {
	rounds   int           // in which the queue never emptied
	yield    int           // more rounds with an empty queue until the others are taken for gone
	window   float64       // bytes in flight, while others fill the queue; else 0
	before   float64       // in flight when they came
	most     float64       // window at the last loss
	since    time.Duration // the last loss
	friend   float64       // what Reno's window would be
	calm     int           // rounds that do not count after a loss
	overflow int           // more rounds for which the queue counts as one that overflows
	sent     float64       // packets that lossy has not judged yet
	lost     float64
}

// onCrowd takes in a round trip. queue says that packets waited for all of it.
func (c *Control) onCrowd(s *Sample, queue bool) {
	w := &c.crowd
	if !c.start.filled || !queue {
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
	lossy := w.lossy(s, c.loss.calm)
	if w.overflow--; lossy {
		w.overflow = yieldRounds
	}
	lossy = lossy && w.calm == 0
	switch {
	case w.window == 0:
		if w.rounds < crowdRounds || c.phase != phaseCruise || !lossy && !c.deep() {
			return
		}
		w.cut(max(c.flying, w.before, narrowWindow)/cubicBeta, s.Now)
	case lossy:
		w.cut(w.window, s.Now)
	default:
		t := (s.Now - w.since + c.trips.smoothed).Seconds()
		k := math.Cbrt(w.most * (1 - cubicBeta) / packetBytes / cubicC)
		cube := w.most + packetBytes*cubicC*math.Pow(t-k, 3)
		w.friend += packetBytes * cubicFriend
		w.window = max(min(cube, 1.5*w.window), w.friend, w.window)
	}
}

// lossy reports whether more is lost than the path loses anyway: one packet where it loses none, otherwise more than
// chance explains. Where a round trip has few packets, several count together.
func (w *crowd) lossy(s *Sample, anyway float64) bool {
	w.sent += float64(s.Sent)
	w.lost += float64(s.Sent) - float64(s.Arrived)
	expected := anyway * w.sent
	lossy := w.lost > 0 && w.lost > expected+2*math.Sqrt(expected)
	if lossy || w.sent >= lossSample {
		w.sent, w.lost = 0, 0
	}
	return lossy
}

// deep reports whether the queue is longer than the path's own content and than two senders make it that yield.
func (c *Control) deep() bool {
	t := &c.trips
	return t.queue > max(t.least(), seconds(2*c.spare()/max(c.rate.most, 1)))+t.sign()
}

// spare is how many bytes a sender that yields keeps in flight beside what the path holds.
func (c *Control) spare() float64 {
	return (4 + math.Sqrt(c.rate.most/packetBytes*yieldTime.Seconds())) * packetBytes
}

// yieldWindow keeps little more in flight than the path holds without a queue: about as many packets
// too many for all, so that those who have more yield more (Vegas). Of what arrives in an interval of
// feedback half is not reported yet, on average, and what jitters is on its way for longer.
func (c *Control) yieldWindow() float64 {
	t := &c.trips
	return c.rate.most*(t.path+FeedbackInterval(t.least())/2+4*t.noise).Seconds() + c.spare()
}

func (w *crowd) cut(window float64, now time.Duration) {
	if window < w.most {
		w.most = window * (1 + cubicBeta) / 2 // fast convergence
	} else {
		w.most = window
	}
	w.window = max(window*cubicBeta, 2*packetBytes)
	w.friend, w.since, w.calm = w.window, now, 2
}
