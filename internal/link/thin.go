package link

import "time"

// Thin flows. A keystroke has no later packet that would reveal its loss, so on a path that loses
// packets it is sent a second time before anyone misses it: a little later, since losses come in
// clumps.
const (
	twinLeast   = 2 * time.Millisecond
	twinMost    = 8 * time.Millisecond
	twinLoss    = 0.002 // of late, above which packets are sent twice
	twinShare   = 0.1   // of the rate
	twinRate    = 8000  // bytes/s, if that is more
	twinBurst   = 250 * time.Millisecond
	mostTwins   = 64
	lossPackets = 1000 // over which, or
	lossTime    = time.Minute
)

// A twin is a packet to be sent again at its time, unless it was reported or sent again before.
type twin struct {
	packet  *packet
	counter uint64 // of its sending; another packet's at[1] never is the same
	at      time.Duration
}

// twins are due in the order they were put in. Guarded by Link.mu.
type twins struct {
	ring     [mostTwins]twin
	first, n int
	tokens   float64 // bytes
	tokensAt time.Duration

	// What congestion counted when it was looked at last, and the sums of late.
	packets, arrived uint64
	sent, lost       float64
	halvedAt         time.Duration
}

// observe takes in how many packets were reported on and how many of them arrived, since the start.
func (t *twins) observe(packets, arrived uint64, now time.Duration) {
	sent := float64(packets - min(t.packets, packets))
	came := float64(arrived - min(t.arrived, arrived))
	t.packets, t.arrived = packets, arrived
	t.sent += sent
	t.lost = max(0, t.lost+sent-came)
	if t.sent > lossPackets || now-t.halvedAt > lossTime {
		t.sent, t.lost = t.sent/2, t.lost/2
		t.halvedAt = now
	}
}

// lossy reports whether the path lost packets of late.
func (t *twins) lossy() bool { return t.lost > twinLoss*t.sent }

// add makes p, which has just left, leave again, if there is room in the budget.
func (t *twins) add(p *packet, srtt time.Duration, rate float64, now time.Duration) {
	budget := max(rate*twinShare, twinRate)
	t.tokens = min(t.tokens+budget*(now-t.tokensAt).Seconds(), budget*twinBurst.Seconds()+packetBytes)
	t.tokensAt = now
	size := float64(p.n + overheadBytes)
	if t.n == mostTwins || t.tokens < size {
		return
	}
	t.tokens -= size
	t.ring[(t.first+t.n)%mostTwins] = twin{p, p.at[1], now + min(max(srtt/8, twinLeast), twinMost)}
	t.n++
}

// due returns the next packet whose time has come, or nil and when to look again.
func (t *twins) due(now time.Duration) (*packet, time.Duration) {
	for t.n > 0 {
		w := &t.ring[t.first]
		wanted := w.packet.state == stateFlying && w.packet.at[1] == w.counter
		if wanted && now < w.at {
			return nil, w.at
		}
		p := w.packet
		*w = twin{}
		t.first = (t.first + 1) % mostTwins
		t.n--
		if wanted {
			return p, now
		}
	}
	return nil, never
}

// thinLocked makes a packet with a key that leaves for the first time leave twice if that helps.
func (l *Link) thinLocked(p *packet, now time.Duration) {
	t := &l.repairs.twins
	if p.at[0] == 0 && !p.flow.heavy && t.lossy() {
		t.add(p, l.cc.SmoothedRTT(), l.cc.State().Rate, now)
	}
}
