package congestion

import (
	"math"
	"time"
)

// bbr is BBR version 3 as draft-ietf-ccwg-bbr has it, without ECN: a candidate, and what others at the bottleneck run.
// Its signals come by report instead of by acknowledgement, so that what was in flight when a packet was sent is taken
// as what was in flight at the report.
type bbr struct {
	random     func(n int) int
	state      int
	maxBW      [2]float64 // of this and the last probing cycle
	bwLo       float64
	inflightLo float64
	inflightHi float64
	minRTT     time.Duration
	minAt      time.Duration
	probeRTT   struct {
		min   time.Duration
		at    time.Duration
		until time.Duration
		done  bool
	}
	rtt        time.Duration
	full       float64
	fullCount  int
	filled     bool
	cycleAt    time.Duration
	wait       time.Duration
	rounds     int // since the last probing
	up         float64
	upAcked    float64
	upRounds   int
	samples    bool // from probing
	latest     float64
	latestData float64
	roundLost  bool
	lossEvents int
	missing    uint64
	lost       float64 // packets in this round
	flown      float64
	extra      [2]float64 // extra_acked
	extraAt    time.Duration
	extraBytes float64
}

const (
	bbrStart = iota
	bbrDrain
	bbrDown
	bbrCruise
	bbrRefill
	bbrUp
	bbrRTT
)

const bbrMSS = 1472

func (b *bbr) Reset(rtt, now time.Duration) {
	*b = bbr{random: b.random, bwLo: math.Inf(1), inflightLo: math.Inf(1), inflightHi: math.Inf(1), minRTT: rtt, minAt: now, rtt: rtt}
	b.probeRTT.min, b.probeRTT.at = rtt, now
}

func (b *bbr) bw() float64           { return min(max(b.maxBW[0], b.maxBW[1]), b.bwLo) }
func (b *bbr) bdp(g float64) float64 { return g * b.bw() * b.minRTT.Seconds() }

func (b *bbr) RoundTrip(rtt, now time.Duration) {
	if b.rtt == 0 {
		b.rtt = rtt
	}
	b.rtt += (rtt - b.rtt) / 8
	if b.minRTT == 0 {
		b.minRTT, b.minAt, b.probeRTT.min, b.probeRTT.at = rtt, now, rtt, now
	}
	if rtt < b.probeRTT.min || now-b.probeRTT.at > 5*time.Second {
		expired := now-b.probeRTT.at > 5*time.Second
		b.probeRTT.min, b.probeRTT.at = rtt, now
		if expired && b.state != bbrRTT && b.filled {
			b.state, b.probeRTT.until = bbrRTT, now+200*time.Millisecond+b.rtt
			b.inflightLo, b.bwLo = math.Inf(1), math.Inf(1)
		}
	}
	if b.probeRTT.min < b.minRTT || now-b.minAt > 10*time.Second {
		b.minRTT, b.minAt = b.probeRTT.min, b.probeRTT.at
	}
}

func (b *bbr) start(state int, now time.Duration) {
	b.state, b.cycleAt = state, now
	switch state {
	case bbrDown:
		b.wait = 2*time.Second + time.Duration(b.random(1000))*time.Millisecond
		b.rounds = b.random(2)
		b.upAcked, b.up, b.upRounds = 0, math.Inf(1), 0
	case bbrRefill:
		b.bwLo, b.inflightLo = math.Inf(1), math.Inf(1)
		b.upRounds, b.upAcked = 0, 0
	case bbrUp:
		b.samples = true
		b.full, b.fullCount = b.latest, 0
	}
}

func (b *bbr) Report(s *Sample) {
	if s.RTT == 0 {
		return
	}
	b.RoundTrip(s.RTT, s.Now)
	newLost := 0.0
	if s.Missing > b.missing {
		newLost = float64(s.Missing - b.missing)
	}
	b.missing = s.Missing
	b.lost += newLost
	b.flown = max(b.flown, s.Flew)
	if newLost > 0 {
		b.roundLost = true
		b.lossEvents++
	}
	rate := 0.0
	if s.Took > 0 && s.Took >= b.minRTT {
		rate = s.Bytes / s.Took.Seconds()
		b.latest = max(b.latest, rate)
		if !s.Limited || rate > b.bw() {
			b.maxBW[0] = max(b.maxBW[0], rate)
		}
	}
	b.latestData = max(b.latestData, s.Bytes)
	if s.Now-b.extraAt > time.Second || b.extraBytes <= b.bw()*(s.Now-b.extraAt).Seconds() {
		b.extraBytes, b.extraAt = 0, s.Now
	}
	b.extraBytes += s.Delivered
	b.extra[0] = max(b.extra[0], min(b.extraBytes-b.bw()*(s.Now-b.extraAt).Seconds(), b.bdp(2)))
	tooHigh := b.lost*bbrMSS > 0.02*max(b.flown, 1) && b.lost > 0
	if !b.filled && s.Round && tooHigh && b.lossEvents >= 6 {
		b.filled = true
		b.inflightHi = max(b.bdp(1), b.latestData)
	}
	if !b.filled && s.Round && !s.Limited {
		if b.latest >= 1.25*b.full {
			b.full, b.fullCount = b.latest, 0
		} else if b.fullCount++; b.fullCount >= 3 {
			b.filled = true
		}
	}
	switch b.state {
	case bbrStart:
		if b.filled {
			b.state = bbrDrain
		}
	case bbrDrain:
		if s.InFlight <= b.bdp(1) {
			b.start(bbrDown, s.Now)
		}
	case bbrRTT:
		if s.Now >= b.probeRTT.until {
			b.probeRTT.at, b.minAt = s.Now, s.Now
			b.start(bbrDown, s.Now)
			b.state = bbrCruise
		}
	}
	if b.filled && b.state >= bbrDown && b.state != bbrRTT {
		if tooHigh && b.samples && b.state != bbrRefill {
			b.samples = false
			if !s.Limited {
				b.inflightHi = max(b.flown, 0.7*min(b.bdp(1), b.window()))
			}
			if b.state == bbrUp {
				b.start(bbrDown, s.Now)
			}
		} else if b.state == bbrUp && b.flown > b.inflightHi {
			b.inflightHi = b.flown
		}
		switch b.state {
		case bbrDown, bbrCruise:
			rounds := min(b.bdp(1)/bbrMSS, 63)
			if s.Now-b.cycleAt > b.wait || float64(b.rounds) >= rounds {
				b.start(bbrRefill, s.Now)
			} else if b.state == bbrDown && s.InFlight <= min(b.bdp(1), max(0.85*b.inflightHi, 4*bbrMSS)) {
				b.state = bbrCruise
			}
		case bbrRefill:
			if s.Round {
				b.start(bbrUp, s.Now)
			}
		case bbrUp:
			b.upAcked += s.Delivered
			if math.IsInf(b.up, 1) {
				b.up = max(s.InFlight, bbrMSS)
			}
			if s.Flew >= b.inflightHi-2*bbrMSS && b.upAcked >= bbrMSS {
				b.inflightHi += b.upAcked / b.up * bbrMSS * math.Exp2(float64(min(b.upRounds, 30)))
				b.upAcked = 0
			}
			if s.Round {
				b.upRounds++
				if b.latest >= 1.25*b.full {
					b.full, b.fullCount = b.latest, 0
				} else if b.fullCount++; b.fullCount >= 3 || s.Now-b.cycleAt > b.minRTT && s.InFlight >= b.bdp(1.25) && b.fullCount > 1 {
					b.start(bbrDown, s.Now)
					b.maxBW[1], b.maxBW[0] = b.maxBW[0], b.latest
					b.extra[1], b.extra[0] = b.extra[0], 0
				}
			}
		}
	}
	if s.Round {
		b.rounds++
		if b.roundLost && b.state != bbrUp && b.state != bbrRefill && b.state != bbrStart && b.state != bbrRTT {
			if math.IsInf(b.bwLo, 1) {
				b.bwLo = max(b.maxBW[0], b.maxBW[1])
			}
			if math.IsInf(b.inflightLo, 1) {
				b.inflightLo = b.window()
			}
			b.bwLo = max(b.latest, 0.7*b.bwLo)
			// What arrived but is not reported yet is no part of what was delivered.
			untold := b.latest * (FeedbackInterval(b.minRTT) + 5*time.Millisecond).Seconds()
			b.inflightLo = max(b.latestData+untold, 0.7*b.inflightLo)
		}
		b.latest, b.latestData, b.roundLost, b.lossEvents, b.lost, b.flown = rate, 0, false, 0, 0, 0
	}
}

func (b *bbr) gain() float64 {
	switch b.state {
	case bbrStart:
		return 2.77
	case bbrDrain:
		return 0.5
	case bbrDown:
		return 0.9
	case bbrUp:
		return 1.25
	}
	return 1
}

func (b *bbr) window() float64 {
	bw := b.bw()
	if bw == 0 || b.minRTT == 0 {
		return 10 * bbrMSS
	}
	g := 2.0
	if b.state == bbrUp {
		g = 2.25
	}
	w := b.bdp(g) + max(b.extra[0], b.extra[1]) + 3*bbrMSS
	switch b.state {
	case bbrRTT:
		w = min(w, max(b.bdp(0.5), 4*bbrMSS))
	case bbrCruise:
		w = min(w, 0.85*b.inflightHi)
	case bbrDown, bbrRefill, bbrUp:
		w = min(w, b.inflightHi)
	}
	return max(min(w, b.inflightLo), 4*bbrMSS)
}

func (b *bbr) State() State {
	bw := b.bw()
	pace := 0.99 * b.gain() * bw
	if bw == 0 {
		pace = 2.77 * 10 * bbrMSS / max(b.rtt, time.Millisecond).Seconds()
	}
	s := State{Window: b.window(), Steady: b.window(), Pace: max(pace, bbrMSS), Rate: bw, MinRTT: b.minRTT, BDP: b.bdp(1)}
	s.Burst = max(s.Pace*0.002, 3*bbrMSS)
	return s
}
