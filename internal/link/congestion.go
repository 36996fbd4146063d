package link

import (
	"math"
	"math/rand/v2"
	"time"
)

// The estimator follows BBR, version 1 (draft-cardwell-iccrg-bbr-congestion-control-00), and rate
// samples follow draft-cheng-iccrg-delivery-rate-estimation-00, with these differences: feedback is
// cumulative and comes at intervals, a sample spans a millisecond at least (on a local network a
// shorter one measures the scheduler), what the receiver's socket buffer holds is a limit of its own,
// a round trip with heavy loss takes back the inflight gain and drains once, and startup sees the
// queue that it makes: while the round trip has grown (RFC 9406) it holds its rate, and it ends when
// that lasts. Loss ends it only if a third is lost; less is made up for by sending more. Where probing
// finds that all it adds comes through, startup begins again.
const (
	startGain   = 2.77
	startWindow = 1.75 // while it starts, beside what is not reported yet: a queue of one bandwidth-delay product is not overrun
	startLossy  = 2.25 // the same where packets are lost
	startMost   = 3.0  // the window of the start in bandwidth-delay products, as far as they are known
	cruiseGain  = 2.0
	initialRate = 16 * packetBytes // per round trip, before anything is known
	leastWindow = 8 * packetBytes

	filterSlots   = 12 // more than a cycle
	leastRound    = 2 * time.Millisecond
	leastSample   = time.Millisecond
	minRTTFor     = 10 * time.Second
	probeRTTFor   = 10 * time.Millisecond // in addition to a round trip
	heavyLoss     = 0.05
	slightLoss    = 0.02
	leastLoss     = 0.0005
	startLoss     = 0.3
	mostLoss      = 0.3                     // that is made up for while probing
	lossSample    = 20                      // packets in a round, below which its loss says nothing
	timerSlack    = 2500 * time.Microsecond // of both ends' timers, at the current rate
	streamLeast   = 3 * time.Millisecond    // what a stream's acknowledgements take, with a quarter of a round trip,
	streamSlack   = 15 * time.Millisecond   // or at most
	freshStart    = 200 * time.Millisecond  // see patience
	freshLeast    = 100 * time.Millisecond
	defaultBuffer = 212992 // Linux net.core.rmem_default
	truesizeBytes = 2304   // what a full packet costs a Linux receive buffer
)

type phase uint8

const (
	phaseStart phase = iota
	phaseDrain
	phaseCruise
	phaseRTT
)

// cycle is ProbeBW's: one round trip each.
var cycle = [...]float64{1.25, 0.75, 1, 1, 1, 1, 1, 1}

// congestion estimates the path's bandwidth and base round trip. Guarded by Link.mu. Bytes and
// packets are those of packets that ask for feedback.
type congestion struct {
	sent records

	// What the receiver told.
	acked        uint64        // highest counter
	resetAt      time.Duration // what was sent before tells of another path
	mixedUntil   time.Duration // what was sent before has that in its rate
	ackedBytes   uint64        // sent up to acked
	ackedPackets uint64
	delivered    uint64 // arrived
	arrived      uint64 // packets arrived
	forgotten    uint64 // sent bytes that no longer count as in flight
	buffer       int

	// The sampling point that packets sent now refer to.
	snapBytes uint64
	snapAt    time.Duration
	snapSent  time.Duration
	limited   uint64 // counter up to which the sender, not the path, was the limit

	filter    [filterSlots]float64 // bytes/s, the highest sample of a base round trip each
	slot      int
	slotAt    time.Duration
	rate      float64 // the highest in filter
	minRTT    time.Duration
	minAt     time.Duration
	recentMin time.Duration // lowest of the current round
	bursts    bursts
	srtt      time.Duration
	lastRTT   time.Duration
	floor     floor
	noise     time.Duration // mean decrease from sample to sample
	rttvar    time.Duration

	phase      phase
	slow       float64 // window of the start, as far as what arrives lets it grow; 0 before there is one
	full       float64 // rate at which startup last grew
	fullCount  int
	filled     bool
	filledAt   time.Duration
	cycleAt    time.Duration
	cycleIndex int
	probedFrom float64       // rate when probing began last
	rttUntil   time.Duration // end of phaseRTT
	loss       float64       // smoothed over eight rounds
	lossRounds int
	gain       float64 // of the inflight window while cruising; heavy loss lowers it to 1

	roundEnd     uint64 // counter
	roundAt      time.Duration
	roundSent    uint64 // ackedPackets at its start
	roundArrived uint64
	crowd        crowd
	drainOnce    bool // after a lossy round
	drained      bool // once in this cycle: a path that loses anyway must not end the probing

	progressAt time.Duration // last feedback that told something new, or the first packet after none
	stalls     int           // timeouts since then
}

// reset forgets what is known of the path, not what is in flight. rtt is a first estimate, or 0.
func (c *congestion) reset(rtt, now time.Duration) {
	*c = congestion{
		sent: c.sent, acked: c.acked, ackedBytes: c.ackedBytes, ackedPackets: c.ackedPackets,
		delivered: c.delivered, arrived: c.arrived, buffer: c.buffer,
		forgotten: c.sent.bytes, snapBytes: c.delivered, snapAt: now, snapSent: now,
		resetAt: now, gain: cruiseGain, minRTT: rtt, minAt: now, srtt: rtt, rttvar: rtt / 2,
		roundAt: now, roundEnd: c.sent.last, roundSent: c.ackedPackets, roundArrived: c.arrived,
		limited: c.sent.last, progressAt: now, bursts: bursts{size: initialBurst},
	}
	if rtt > 0 {
		c.floor.add(rtt, now)
	}
}

func (c *congestion) inflight() float64 {
	return float64(c.sent.bytes - max(c.ackedBytes, c.forgotten))
}

// onSend records a packet that asks for feedback. It returns the record that had to make room.
func (c *congestion) onSend(counter uint64, size int, now time.Duration) record {
	if c.sent.bytes == max(c.ackedBytes, c.forgotten) {
		c.progressAt = now
		if now-c.snapAt > 10*time.Millisecond {
			c.snapBytes, c.snapAt, c.snapSent = c.delivered, now, now // a pause is no part of a sample
		}
	}
	return c.sent.add(counter, size, max(c.acked, 1), record{
		sentAt: now, delivered: c.snapBytes, deliveredAt: c.snapAt, firstAt: c.snapSent,
		limited: c.limited > c.acked,
	})
}

// onFeedback takes in what the receiver told. What cannot be true is ignored, as is what is older than
// the last; it reports whether it was not.
func (c *congestion) onFeedback(f *feedback, now time.Duration) bool {
	r, ok := c.sent.find(f.highest)
	if !ok || f.highest < c.acked || f.packets < c.arrived || f.bytes < c.delivered ||
		f.packets > r.packets || f.bytes > r.bytes {
		return false
	}
	if f.buffer > 0 {
		c.buffer = f.buffer
	}
	news := f.packets > c.arrived
	c.grow(float64(f.bytes - c.delivered))
	c.delivered, c.arrived = f.bytes, f.packets
	c.ackedPackets, c.ackedBytes = r.packets, r.bytes
	if news {
		c.progressAt, c.stalls = now, 0
	}
	if f.highest == c.acked {
		return true
	}
	c.acked = f.highest
	if r.sentAt < c.resetAt {
		c.mixedUntil = now
		c.snapBytes, c.snapAt, c.snapSent = c.delivered, now, now
		return true
	}
	at := now - min(f.delay, now-r.sentAt)
	c.onRTT(at-r.sentAt, now)
	if at-c.snapAt >= leastSample {
		c.snapBytes, c.snapAt, c.snapSent = c.delivered, at, r.sentAt
	}
	if took := max(at-r.deliveredAt, r.sentAt-r.firstAt); took >= leastSample && took >= c.minRTT && r.sentAt >= c.mixedUntil {
		if c.standing(c.lastRTT) {
			took += min(4*c.noise, took/8) // jitter shortens some samples, and the highest counts
		}
		c.onRate(float64(c.delivered-min(r.delivered, c.delivered))/took.Seconds(), r.limited, now)
	}
	if c.acked >= c.roundEnd && now-c.roundAt >= leastRound {
		c.onRound(r, now)
	}
	c.advance(now)
	return true
}

func (c *congestion) onRTT(rtt, now time.Duration) {
	rtt = max(rtt, time.Microsecond)
	if c.srtt == 0 {
		c.srtt, c.rttvar = rtt, rtt/2
	}
	c.rttvar += (max(rtt-c.srtt, c.srtt-rtt) - c.rttvar) / 4 // RFC 6298 §2
	c.srtt += (rtt - c.srtt) / 8
	// A queue that grows only raises the round trip: what lowers it is noise.
	c.noise += (max(c.lastRTT-rtt, 0) - c.noise) / 8
	c.lastRTT = rtt
	if c.recentMin == 0 || rtt < c.recentMin {
		c.recentMin = rtt
	}
	if c.minRTT == 0 || rtt <= c.minRTT {
		c.minRTT, c.minAt = rtt, now
	}
	c.floor.add(rtt, now)
	c.bursts.sample(c.standing(rtt))
}

// onRate takes in a sample of the delivery rate. Samples of a sender with nothing to send can only
// raise the estimate, and age nothing. The filter ages by base round trips, not by measured ones:
// where the path became slow and its queue is deep, ten of those are too long to wait.
func (c *congestion) onRate(rate float64, limited bool, now time.Duration) {
	if limited && rate < c.rate {
		return
	}
	if now-c.slotAt >= max(c.minRTT+feedbackInterval(c.minRTT), leastRound) {
		c.slotAt = now
		c.slot = (c.slot + 1) % filterSlots
		c.filter[c.slot] = 0
	}
	c.filter[c.slot] = max(c.filter[c.slot], rate)
	c.rate = 0
	for _, r := range c.filter {
		c.rate = max(c.rate, r)
	}
}

// onRound ends a round trip.
func (c *congestion) onRound(r record, now time.Duration) {
	sent, arrived := r.packets-min(c.roundSent, r.packets), c.arrived-c.roundArrived
	loss := 0.0
	if sent >= lossSample && arrived < sent {
		loss = 1 - float64(arrived)/float64(sent)
	}
	c.onCrowd(loss, now)
	c.bursts.round(loss > heavyLoss)
	if sent >= lossSample {
		c.lossRounds = min(c.lossRounds+1, 8)
		c.loss += (loss - c.loss) / float64(c.lossRounds)
	}
	switch {
	case loss > heavyLoss:
		c.gain = max(1, c.gain*0.85)
		c.drainOnce = c.filled
	case loss < slightLoss:
		c.gain = min(cruiseGain, c.gain+0.05)
	}
	if !c.filled && !r.limited {
		if c.rate >= c.full*1.25 {
			c.full, c.fullCount = c.rate, 0 // loss that does not keep the rate from growing is not ours
		} else {
			c.fullCount++
		}
		c.filled = c.fullCount > 1 && c.standing(c.recentMin) || c.fullCount >= 6 || c.fullCount > 0 && sent >= 5*lossSample && loss > startLoss
		c.filledAt = now
	}
	c.roundEnd, c.roundAt = c.sent.last, now
	c.roundSent, c.roundArrived = r.packets, c.arrived
	if now-c.minAt > minRTTFor && c.phase != phaseRTT && c.recentMin > 0 {
		if c.recentMin <= c.minRTT+c.minRTT/4+time.Millisecond {
			c.minRTT, c.minAt = c.recentMin, now // there is no queue that would hide it
		} else {
			c.phase, c.rttUntil = phaseRTT, now+c.srtt+max(c.minRTT, probeRTTFor)
			c.minRTT = c.recentMin
		}
	}
	c.recentMin = 0
}

// advance moves between phases.
func (c *congestion) advance(now time.Duration) {
	switch c.phase {
	case phaseStart:
		if c.filled {
			c.phase = phaseDrain
		}
	case phaseDrain:
		if c.inflight() <= c.bdp()+c.rate*leastSample.Seconds() {
			c.cruise(now)
		}
	case phaseCruise:
		short := c.cycleIndex == 1 && c.inflight() <= c.bdp()
		if now-c.cycleAt > max(c.trip(), leastRound) || short {
			c.cycleIndex, c.cycleAt = (c.cycleIndex+1)%len(cycle), now
			switch {
			case c.cycleIndex == 0:
				c.drained = false
				c.probedFrom = c.rate
			case c.cycleIndex == 2 && c.rate > 1.1*c.probedFrom && c.probedFrom > 0 && c.crowd.yield == 0 && !c.standing(c.lastRTT):
				// What probing added came through, and there is no queue: the path holds far more.
				c.phase, c.filled, c.full, c.fullCount = phaseStart, false, c.rate, 0
			case c.drainOnce && !c.drained && c.cycleIndex > 1:
				c.cycleIndex, c.drained = 1, true
			}
			c.drainOnce = false
		}
	case phaseRTT:
		if now >= c.rttUntil {
			c.minAt = now
			if c.filled {
				c.cruise(now)
			} else {
				c.phase = phaseStart
			}
		}
	}
}

func (c *congestion) cruise(now time.Duration) {
	c.phase, c.cycleAt = phaseCruise, now
	c.cycleIndex = 2 + rand.IntN(len(cycle)-2) // two links must not probe in step
}

// trip is the round trip without a queue, but with what the path's own jitter adds to it. A window for the shortest
// one alone would hold the rate down, and a lower rate would make the window smaller still. The start knows too little
// of the path to tell jitter from the queue that it makes; and for timerSlack there is room in any window.
func (c *congestion) trip() time.Duration {
	if c.phase != phaseCruise {
		return c.minRTT
	}
	return c.minRTT + max(min(4*c.noise, c.srtt-c.minRTT)-timerSlack, 0)
}

func (c *congestion) bdp() float64 { return c.rate * c.trip().Seconds() }

// grow lets the window of the start grow by a part of what arrived. The rate is known late, by a round
// trip and what feedback waits for, which would make the start half as fast again. The window grows so
// that it has doubled when the first sign of a queue arrives: one of a bandwidth-delay product is just
// full by then.
func (c *congestion) grow(bytes float64) {
	if c.phase != phaseStart {
		c.slow = 0
		return
	}
	if c.slow == 0 {
		c.slow = max(c.inflight(), initialRate)
	}
	if c.standing(c.lastRTT) || c.minRTT == 0 || c.inflight()+bytes < c.slow/2 {
		return
	}
	sign := c.minRTT + queueSign(c.minRTT) + feedbackInterval(c.minRTT)
	c.slow += bytes * (math.Exp2(c.minRTT.Seconds()/sign.Seconds()) - 1)
}

// pace returns the rate to send at, in bytes per second.
func (c *congestion) pace() float64 {
	if c.rate == 0 {
		return startGain * initialRate / max(c.srtt, time.Millisecond).Seconds()
	}
	switch c.phase {
	case phaseStart:
		if c.standing(c.lastRTT) {
			return c.rate
		}
		// Who had little to send knows little of the path.
		return startGain * max(c.rate, initialRate/max(c.minRTT, time.Millisecond).Seconds())
	case phaseDrain:
		return c.rate / startGain
	case phaseCruise:
		if c.crowd.window > 0 {
			return max(1.25*c.crowd.window/c.srtt.Seconds(), packetBytes)
		}
		gain := cycle[c.cycleIndex] * 0.99
		if c.cycleIndex == 0 {
			gain *= c.makeUp() // what is lost on the way must not hide that there is room
		}
		return max(c.rate*gain, packetBytes)
	}
	return max(c.rate*0.99, packetBytes)
}

// patience is how long fresh payloads may wait to be sent. Until the path was found full they wait for the link to
// find out what it carries, which takes round trips. If it carries less than is offered, a long queue would only make
// all of them late, so that it shrinks then, slowly enough for one that empties.
func (c *congestion) patience(now time.Duration) time.Duration {
	most := freshStart + 2*c.srtt
	if !c.filled {
		return most
	}
	return max(most-(now-c.filledAt)/10, freshLeast)
}

// timeout is how long without feedback counts as a loss of all that is in flight.
func (c *congestion) timeout() time.Duration {
	t := max(2*c.srtt+feedbackInterval(c.srtt), 100*time.Millisecond)
	return min(t<<min(c.stalls, 5), max(time.Second, t))
}

// stall forgets what is in flight, so that a little can be sent.
func (c *congestion) stall(now time.Duration) {
	c.forgotten = c.sent.bytes
	c.progressAt = now
	c.stalls++
}

// lost returns how many packets were sent up to the highest that arrived, but did not arrive.
func (c *congestion) lost() uint64 { return c.ackedPackets - min(c.arrived, c.ackedPackets) }

// feedbackInterval is how long a receiver waits before it tells what came.
func feedbackInterval(rtt time.Duration) time.Duration {
	return min(max(rtt/4, time.Millisecond), 25*time.Millisecond)
}

// feedbackPackets is after how many packets a receiver does not wait for the interval to pass: a
// small part of what its socket buffer holds.
func feedbackPackets(buffer int) int {
	if buffer == 0 {
		buffer = defaultBuffer
	}
	return min(max(buffer/truesizeBytes/8, 8), 64)
}

// makeUp is how many times as much must be sent for as much to arrive.
func (c *congestion) makeUp() float64 { return 1 / (1 - min(c.loss, mostLoss)) }

// standing reports whether a round trip says that there is a queue (RFC 9406 §4.2), beyond the path's
// own jitter.
func (c *congestion) standing(rtt time.Duration) bool {
	least := c.floor.value()
	return rtt > least+queueSign(least)+4*c.noise
}

// queueSign is by how much a round trip must have grown to be the sign of a queue.
func queueSign(least time.Duration) time.Duration {
	return min(max(least/8, 2*time.Millisecond), 16*time.Millisecond)
}
