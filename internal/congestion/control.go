package congestion

import (
	"math"
	"math/rand/v2"
	"time"
)

const (
	startGain   = 2.77             // of the pace: BBR's 4 ln 2, the least that doubles the rate in a round trip
	startWindow = 1.75             // bandwidth-delay products, beside what is not reported yet: a queue of one is not overrun
	startLossy  = 2.25             // the same where packets are lost: reports are lost as well, and news are older
	startMost   = 3.0              // the same, of a window that grows by what arrives
	cruiseGain  = 2.0              // bandwidth-delay products in flight: BBR's
	initialRate = 16 * packetBytes // bytes in a round trip, before anything is known: RFC 6928 has 10 packets, QUIC 10 to 32

	filterSlots = 12                      // base round trips for which the highest rate counts: more than a cycle
	heavyLoss   = 0.05                    // of a round trip's packets, that the sender takes part in
	slightLoss  = 0.02                    // that a path may have without a queue: BBRv3's threshold
	startLoss   = 0.3                     // that ends the start, where the rate does not grow
	mostLoss    = 0.3                     // that is made up for while probing
	lossSample  = 20                      // packets in a round trip, below which its loss says nothing
	timerSlack  = 2500 * time.Microsecond // of both ends' timers, at the current rate

	narrowWindow = 4 * packetBytes // bytes in flight at least, as BBR has it
)

type phase uint8

const (
	phaseStart phase = iota
	phaseDrain
	phaseCruise
	phaseLook
)

// cycle is ProbeBW's: one round trip each.
var cycle = [...]float64{1.25, 0.75, 1, 1, 1, 1, 1, 1}

// A Control is the controller that links use. In the manner of BBR, version 1
// (draft-cardwell-iccrg-bbr-congestion-control-00), it estimates what rate the path carries and how long a round trip
// takes without a queue, and sends at that rate:
//
//	start ──full──> drain ──empty──> cruise ──a queue stands──> look ──> cruise
//	  ^                                |
//	  └──── probing came through ──────┘
//
// It differs from BBR in what a queue is (trips.go), in looking what makes one that stands (look), in what it does
// beside others (crowd.go), in that a queue ends the start (RFC 9406), and in that loss does not: it is made up for by
// sending more, and only heavy loss takes back what is in flight beyond the path's own content.
type Control struct {
	// Random returns a number below n; nil is one that nobody foresees.
	Random func(n int) int

	buffer int
	phase  phase
	rate   rateFilter
	trips  trips
	start  start
	cycle  struct {
		at         time.Duration
		index      int
		probedFrom float64 // rate when probing began last
		drainOnce  bool    // after a lossy round
		drained    bool    // once in this cycle: a path that loses anyway must not end the probing
	}
	look look
	loss struct {
		share  float64 // smoothed over eight rounds
		rounds int
		calm   float64 // the same of those without a queue, over 32: what the path loses anyway
		calms  int
	}
	gain   float64 // of the inflight window while cruising; heavy loss lowers it to 1
	bursts bursts
	turn   turn
	crowd  crowd
	flying float64 // bytes in flight at the last report
}

// A start is what is known of the path before it is full.
type start struct {
	window float64 // as far as what arrives lets it grow; 0 before there is one
	full   float64 // rate at which it grew last
	count  int
	filled bool
	at     time.Duration // when that was found
}

// A rateFilter keeps the highest sample of the delivery rate, in bytes a second, of a base round trip each.
type rateFilter struct {
	slots [filterSlots]float64
	slot  int
	at    time.Duration
	most  float64 // of all
}

func (f *rateFilter) add(rate float64, width, now time.Duration) {
	if now-f.at >= width {
		f.at = now
		f.slot = (f.slot + 1) % filterSlots
		f.slots[f.slot] = 0
	}
	f.slots[f.slot] = max(f.slots[f.slot], rate)
	f.most = 0
	for _, r := range f.slots {
		f.most = max(f.most, r)
	}
}

// Reset implements Controller.
func (c *Control) Reset(rtt, now time.Duration) {
	*c = Control{Random: c.Random, buffer: c.buffer, gain: cruiseGain, bursts: bursts{size: initialBurst}, turn: turn{worth: quantumTime}}
	if rtt > 0 {
		c.trips.add(rtt, 0, now)
	}
}

// Report implements Controller.
func (c *Control) Report(s *Sample) {
	if s.Buffer > 0 {
		c.buffer = s.Buffer
	}
	c.flying = s.Flew
	c.grow(s.Delivered)
	c.flying = s.InFlight
	if s.RTT == 0 {
		return
	}
	c.onTrip(s.RTT, s.Forward, s.Now)
	if took := s.Took; took > 0 && took >= c.trips.least() {
		if c.trips.standing() {
			took += min(4*c.trips.noise, took/8) // jitter shortens some samples, and the highest counts
		}
		c.onRate(s.Bytes/took.Seconds(), s.Limited, s.Now)
	}
	if s.Round {
		c.onRound(s)
	}
	c.advance(s.Now)
}

// RoundTrip implements Controller.
func (c *Control) RoundTrip(rtt, now time.Duration) { c.onTrip(rtt, 0, now) }

func (c *Control) onTrip(rtt, forward, now time.Duration) {
	c.trips.add(rtt, forward, now)
	c.bursts.sample(c.trips.standing())
	if c.phase == phaseLook && now >= c.look.from {
		c.look.sample(c.trips.queue, rtt, forward)
	}
}

// onRate takes in a sample of the delivery rate. Samples of a sender with nothing to send can only
// raise the estimate, and age nothing. The filter ages by base round trips, not by measured ones:
// where the path became slow and its queue is deep, ten of those are too long to wait.
func (c *Control) onRate(rate float64, limited bool, now time.Duration) {
	if limited && rate < c.rate.most {
		return
	}
	c.rate.add(rate, max(c.trips.least()+FeedbackInterval(c.trips.least()), leastRound), now)
}

// onRound ends a round trip.
func (c *Control) onRound(s *Sample) {
	loss := 0.0
	if s.Sent >= lossSample && s.Arrived < s.Sent {
		loss = 1 - float64(s.Arrived)/float64(s.Sent)
	}
	queue := c.trips.endRound()
	c.onCrowd(s, queue)
	c.bursts.round(loss > heavyLoss)
	if s.Sent >= lossSample {
		c.loss.rounds = min(c.loss.rounds+1, 8)
		c.loss.share += (loss - c.loss.share) / float64(c.loss.rounds)
		if !queue {
			c.loss.calms = min(c.loss.calms+1, 32)
			c.loss.calm += (loss - c.loss.calm) / float64(c.loss.calms)
		}
	}
	switch {
	case loss > heavyLoss:
		c.gain = max(1, c.gain*0.85)
		c.cycle.drainOnce = c.start.filled
	case loss < slightLoss:
		c.gain = min(cruiseGain, c.gain+0.05)
	}
	c.turn.round(loss, queue)
	rate := c.rate.most
	if !c.start.filled && !s.Limited {
		f := &c.start
		if rate >= f.full*1.25 {
			f.full, f.count = rate, 0 // loss that does not keep the rate from growing is not ours
		} else {
			f.count++
		}
		f.filled = f.count > 1 && queue || f.count >= 6 || f.count > 0 && s.Sent >= 5*lossSample && loss > startLoss
		f.at = s.Now
	}
	if c.phase == phaseCruise && (c.crowd.rounds >= lookRounds || c.trips.means >= lookMean) && s.Now >= c.look.next {
		c.look.begin(&c.trips, c.flying, c.rate.most, s.Now)
		c.phase = phaseLook
	}
}

// advance moves between phases.
func (c *Control) advance(now time.Duration) {
	switch c.phase {
	case phaseStart:
		if c.start.filled {
			c.phase = phaseDrain
		}
	case phaseDrain:
		if c.flying <= c.bdp()+c.rate.most*leastSample.Seconds() {
			c.cruise(now)
		}
	case phaseCruise:
		y := &c.cycle
		short := y.index == 1 && c.flying <= c.bdp()
		if now-y.at > max(c.trip(), leastRound) || short {
			y.index, y.at = (y.index+1)%len(cycle), now
			switch {
			case y.index == 0:
				y.drained = false
				y.probedFrom = c.rate.most
			case y.index == 2 && c.rate.most > 1.1*y.probedFrom && y.probedFrom > 0 && !c.trips.standing():
				// What probing added came through, and there is no queue: the path holds far more.
				c.phase = phaseStart
				c.start.filled, c.start.full, c.start.count = false, c.rate.most, 0
			case y.drainOnce && !y.drained && y.index > 1:
				y.index, y.drained = 1, true
			}
			y.drainOnce = false
		}
	case phaseLook:
		if now < c.look.until {
			return
		}
		l := &c.look
		found := l.end(&c.trips, c.flying, now)
		if found == unknown {
			return
		}
		doubt := found == longer && c.crowd.window > 0 && !l.doubt
		switch {
		case doubt: // somebody who fills the queue may have filled it meanwhile: look again
			l.next = now + lookAgain
		case found == longer:
			c.trips.accept(l, now)
			c.crowd = crowd{}
			fallthrough
		case found == own:
			l.others, l.next = 0, now+lookEvery
		default:
			l.others = min(l.others+1, lookMost)
			l.next = now + lookEvery<<l.others
		}
		l.doubt = doubt
		c.cruise(now)
	}
}

func (c *Control) cruise(now time.Duration) {
	c.phase, c.cycle.at = phaseCruise, now
	random := c.Random
	if random == nil {
		random = rand.IntN
	}
	c.cycle.index = 2 + random(len(cycle)-2) // two links must not probe in step
}

// trip is the round trip without a queue, but with what the path's own jitter adds to it. A window for the shortest
// one alone would hold the rate down, and a lower rate would make the window smaller still. The start knows too little
// of the path to tell jitter from the queue that it makes; and for timerSlack there is room in any window.
func (c *Control) trip() time.Duration {
	t := &c.trips
	if c.phase == phaseStart || c.phase == phaseDrain {
		return t.least()
	}
	return t.path + max(min(4*t.noise, t.smoothed-t.path)-timerSlack, 0)
}

func (c *Control) bdp() float64 { return c.rate.most * c.trip().Seconds() }

// grow lets the window of the start grow by a part of what arrived. The rate is known late, by a round
// trip and what feedback waits for, which would make the start half as fast again. The window grows so
// that it has doubled when the first sign of a queue arrives: one of a bandwidth-delay product is just
// full by then.
func (c *Control) grow(bytes float64) {
	f, least := &c.start, c.trips.least()
	if c.phase != phaseStart {
		f.window = 0
		return
	}
	if f.window == 0 {
		f.window = max(c.flying, initialRate)
	}
	if c.trips.standing() || least == 0 || c.flying+bytes < f.window/2 {
		return
	}
	sign := least + queueSign(least) + FeedbackInterval(least)
	f.window += bytes * (math.Exp2(least.Seconds()/sign.Seconds()) - 1)
}

// pace returns the rate to send at, in bytes per second.
func (c *Control) pace() float64 {
	rate, t := c.rate.most, &c.trips
	if rate == 0 {
		return startGain * initialRate / max(t.smoothed, time.Millisecond).Seconds()
	}
	switch c.phase {
	case phaseStart:
		if t.standing() {
			return rate
		}
		// Who had little to send knows little of the path.
		return startGain * max(rate, initialRate/max(t.least(), time.Millisecond).Seconds())
	case phaseDrain:
		return rate / startGain
	case phaseCruise:
		if c.crowd.window > 0 {
			return max(1.25*c.crowd.window/t.smoothed.Seconds(), packetBytes)
		}
		gain := cycle[c.cycle.index] * 0.99
		if c.cycle.index == 0 {
			gain *= c.makeUp() // what is lost on the way must not hide that there is room
		}
		if c.crowd.rounds >= yieldRounds && c.crowd.overflow > 0 {
			gain *= yieldGain
		}
		return max(rate*gain, packetBytes)
	}
	return max(c.look.rate/math.Exp2(float64(c.look.steps)), 1)
}

// makeUp is how many times as much must be sent for as much to arrive.
func (c *Control) makeUp() float64 { return 1 / (1 - min(c.loss.share, mostLoss)) }

// State implements Controller.
func (c *Control) State() State {
	s := State{
		Window: c.window(), Steady: c.steadyWindow(), Pace: c.pace(), Rate: c.rate.most, Loss: c.loss.share,
		MinRTT: c.trips.least(), BDP: c.bdp(), Queue: c.trips.standing(), Turn: c.turn.worth,
	}
	if c.start.filled {
		s.Full = c.start.at
	}
	s.Burst = c.burst(s.Pace)
	return s
}

// window returns how many bytes may be in flight now.
func (c *Control) window() float64 {
	w := c.steadyWindow()
	if c.phase == phaseLook {
		w = min(w, c.look.window)
	}
	return w
}

// steadyWindow is the window without the moments in which it is made small on purpose.
func (c *Control) steadyWindow() float64 {
	buffer := c.buffer
	if buffer == 0 {
		buffer = defaultBuffer
	}
	// A full packet costs the buffer truesizeBytes; half of it stays free, more after heavy loss.
	room := float64(buffer/truesizeBytes*packetBytes) / 2 * max(c.gain-1, 0.25)
	rate, t := c.rate.most, &c.trips
	least := t.least()
	if rate == 0 {
		return min(initialRate, max(room, leastWindow))
	}
	gain := c.gain
	if c.phase == phaseStart {
		gain = startWindow
		if c.loss.share > slightLoss && !t.standing() {
			gain = startLossy
		}
		gain = gain*c.makeUp() + FeedbackInterval(least).Seconds()/max(least, leastRound).Seconds()
	}
	if c.crowd.window > 0 {
		return min(c.crowd.window, c.crowd.window/2+room+leastWindow)
	}
	slow := 0.0
	if c.phase == phaseStart && !t.standing() {
		slow = min(c.start.window, startMost*c.bdp())
		if c.start.full == 0 { // no sample says yet what the path bears
			slow = max(slow, initialRate)
		}
	}
	// What arrived but was not reported yet must not keep the pacer from its rate, probing included.
	need := cycle[0]*c.makeUp()*c.bdp() + rate*FeedbackInterval(least).Seconds()
	w := max(max(gain*c.bdp(), need)+rate*timerSlack.Seconds(), slow, narrowWindow)
	if !c.start.filled {
		w = max(w, leastWindow)
	}
	if c.phase == phaseCruise && c.cycle.index > 0 && c.crowd.yield > 0 {
		w = max(min(w, c.yieldWindow()), narrowWindow)
	}
	// What is lost on the way comes to no buffer.
	network := rate * c.makeUp() * max(t.path, min(t.smoothed, 2*t.path)).Seconds()
	reported := float64(FeedbackPackets(buffer) * packetBytes)
	return min(w, network+reported+max(room, leastWindow))
}
