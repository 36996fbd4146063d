package congestion

import (
	"math"
	"time"
)

// What a ceiling allows. Its bound over ceilingTime and ceilingTrips is ceilingGain and ceilingDepth together: 1.5
// bytes for one that was reported.
const (
	ceilingGain  = 1.45 // bytes that may be sent for one that is reported: a path that loses 30 % still carries something
	ceilingDepth = 0.05 // of what was reported within the time: what may be sent before the next report
	ceilingTime  = 3 * time.Second
	ceilingTrips = 10
	ceilingSlots = 16
	ceilingLeast = leastWindow // bytes that may be sent before the next report, however little was reported

	clearGain  = 3                 // in place of ceilingGain where the path is clear: a start doubles in a round trip, and is told 1¼ later
	clearBurst = 64 * packetBytes  // in place of ceilingLeast
	clearLoss  = 1.0 / 6           // of a round trip's packets; with more than chance explains the path is not clear
	clearLeast = 40                // packets, below which their loss says nothing
	growth     = 1.25              // times as fast as in any round trip of the time: what is lost does not keep the rate from growing
	trickle    = packetBytes / 0.1 // bytes a second that may always be sent: what finds out that the path is there again
)

// A ceiling keeps what is sent within a multiple of what the peer reports, whatever the controller believes: each byte
// that is reported earns credit for ceilingGain bytes, and each that is sent spends it. The credit that can be saved
// up is a small part of what was reported of late.
//
// Where nearly all that is sent arrives there is nothing to bound but the start: until the next round trip with loss,
// and again after three seconds and ten round trips without, a byte earns more, and what arrived in a round trip may
// be sent at once.
type ceiling struct {
	credit  float64       // bytes; may be negative
	gain    float64       // of the present round trip
	most    float64       // of credit, in the present round trip
	calm    int           // round trips since one with loss
	lossAt  time.Duration // when that ended
	known   float64       // bytes a second that arrived at most, since then
	at      time.Duration // of the last trickle
	stallAt time.Duration
	slots   struct {
		came, rate [ceilingSlots]float64 // bytes, bytes a second
		at         time.Duration
		now        int
	}
	round struct {
		at         time.Duration
		came       float64
		sent, lost float64 // packets, of as many round trips as hold clearLeast
	}
}

func (c *ceiling) reset(now time.Duration) {
	*c = ceiling{credit: clearBurst, gain: clearGain, most: clearBurst, calm: ceilingTrips, lossAt: now - ceilingTime, at: now, stallAt: now - ceilingTime}
	c.slots.at, c.round.at = now, now
}

// sent spends credit.
func (c *ceiling) sent(bytes int) { c.credit -= float64(bytes) }

// reported takes in a report.
func (c *ceiling) reported(s *Sample, srtt time.Duration) {
	width := max(ceilingTime, ceilingTrips*srtt) / ceilingSlots
	for range min((s.Now-c.slots.at)/width, ceilingSlots) {
		c.slots.now = (c.slots.now + 1) % ceilingSlots
		c.slots.came[c.slots.now], c.slots.rate[c.slots.now] = 0, 0
		c.slots.at = max(c.slots.at+width, s.Now-ceilingSlots*width)
	}
	c.slots.came[c.slots.now] += s.Delivered
	c.round.came += s.Delivered
	if s.Round {
		c.turn(s, srtt)
	}
	c.credit = min(c.credit+c.gain*s.Delivered, c.most)
}

// turn ends a round trip.
func (c *ceiling) turn(s *Sample, srtt time.Duration) {
	r := &c.round
	rate := r.came / max(s.Now-r.at, leastRound).Seconds()
	came, most := 0.0, 0.0
	for i := range ceilingSlots {
		came += c.slots.came[i]
		most = max(most, c.slots.rate[i])
	}
	c.slots.rate[c.slots.now] = max(c.slots.rate[c.slots.now], rate)
	r.sent += float64(s.Sent)
	r.lost += float64(s.Sent) - float64(s.Arrived)
	if r.sent >= clearLeast {
		expected := clearLoss * r.sent
		if c.calm++; r.lost > expected+2*math.Sqrt(expected) && rate < growth*most {
			c.calm, c.known, c.lossAt = 0, 0, s.Now
		}
		r.sent, r.lost = 0, 0
	}
	c.known = max(c.known, rate)
	c.gain, c.most = ceilingGain, max(ceilingDepth*came, ceilingLeast)
	if c.calm >= ceilingTrips && s.Now-c.lossAt >= ceilingTime {
		c.gain, c.most = clearGain, max(c.most, clearBurst, clearGain*r.came, c.known*srtt.Seconds())
	}
	r.at, r.came = s.Now, 0
}

// stalled allows a little where nothing was reported for long: what would have trickled since the last time.
func (c *ceiling) stalled(now time.Duration) {
	c.credit = max(c.credit, min(trickle*(now-c.stallAt).Seconds(), ceilingLeast))
	c.stallAt = now
}

// open reports whether a packet may leave; if not, it returns when to ask again.
func (c *ceiling) open(now time.Duration) (bool, time.Duration) {
	if c.credit < 0 {
		c.credit = min(c.credit+trickle*(now-c.at).Seconds(), 0)
	}
	c.at = now
	if c.credit >= 0 {
		return true, now
	}
	return false, now + seconds(-c.credit/trickle)
}
