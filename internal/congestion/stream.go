package congestion

import (
	"math"
	"time"
)

const (
	leastLoss   = 0.0005
	streamLeast = 3 * time.Millisecond   // what a stream's acknowledgements take, with a quarter of a round trip,
	streamSlack = 15 * time.Millisecond  // or at most
	freshStart  = 200 * time.Millisecond // see Patience
	freshLeast  = 100 * time.Millisecond

	leastFlow = 32 << 10 // bytes of a stream's window
	mostFlow  = 80 << 20
)

// FlowWindow is how many bytes one of n flows should keep outstanding: some of it waits in its queue. A flow in order
// stops at a lost packet until that was sent again, and goes on only as long as its window lasts. So where packets are
// lost it grows by a round trip for each time that the unluckiest packet of a round trip is lost: with 1 % loss at
// 100 Mbit/s and 40 ms, 84 Mbit/s arrive instead of 74.
func (s *Sender[L]) FlowWindow(n int) int {
	c := &s.state
	slack := c.Rate * min(streamLeast+s.rtt.smoothed/4, streamSlack).Seconds()
	w := 1.1 * (c.Steady + slack)
	if c.Loss > leastLoss {
		again := math.Log(max(c.BDP/packetBytes, 2)) / -math.Log(min(c.Loss, mostLoss))
		w = max(1.4*w, c.BDP*(1.1+1.25*again)+slack)
	}
	return int(min(max(w/float64(max(n, 1)), leastFlow), mostFlow))
}

// Patience is how long payloads that are of no use when they are late may wait to be sent. Until the path was found
// full they wait for the link to find out what it carries, which takes round trips. If it carries less than is
// offered, a long queue would only make all of them late, so that it shrinks then, slowly enough for one that empties.
func (s *Sender[L]) Patience(now time.Duration) time.Duration {
	most := freshStart + 2*s.rtt.smoothed
	if s.state.Full == 0 {
		return most
	}
	return max(most-(now-s.state.Full)/10, freshLeast)
}
