package congestion

import "time"

const (
	burstTime    = 2 * time.Millisecond // what the pacer makes up for after it slept too long,
	burstMost    = 8 * time.Millisecond // or
	burstShare   = 16                   // such a part of the round trip: on a busy machine it sleeps for longer
	leastBurst   = 4 * packetBytes
	initialBurst = 10 * packetBytes // RFC 6928
	mostBurst    = 64 * packetBytes // what one system call takes
)

// Bursts are what may leave at once before the path was found full. A sender that never had enough to
// send to fill it estimates what it sent on average, and a hundred short questions at once would wait
// for a pacer at that rate. As in slow start the allowance doubles in a round trip that used it and saw
// no queue, and halves in one that did.
type bursts struct {
	size     float64 // bytes
	used     bool    // more than half of it, in this round
	samples  int     // of the round trip in this round
	standing int     // of these, with a queue
}

// Spent takes in what the pacer has left, in bytes.
func (c *Control) Spent(tokens float64) { c.bursts.used = c.bursts.used || tokens < c.bursts.size/2 }

func (b *bursts) sample(standing bool) {
	b.samples++
	if standing {
		b.standing++
	}
}

// round ends a round trip.
func (b *bursts) round(lost bool) {
	switch {
	case lost || 2*b.standing > b.samples:
		b.size = max(b.size/2, leastBurst)
	case b.used && 4*b.standing <= b.samples:
		b.size = min(2*b.size, mostBurst)
	}
	b.used, b.samples, b.standing = false, 0, 0
}

// burst is how many bytes may leave at once at a pacing rate.
func (c *Control) burst(rate float64) float64 {
	least := max(rate*max(burstTime, min(c.trips.least()/burstShare, burstMost)).Seconds(), leastBurst)
	if c.turn.worth < quantumTime {
		least = max(rate*max(4*c.turn.worth, 2*leastSleep).Seconds(), 2*packetBytes)
	}
	if c.start.filled {
		return least
	}
	return max(least, min(c.bursts.size, c.window()/2))
}
