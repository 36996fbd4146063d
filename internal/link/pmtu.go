package link

import (
	"net/netip"
	"slices"
	"time"
)

// Packet sizes are in bytes of UDP payload. The larger ones fit, with 28 bytes of IPv4 and UDP headers
// or 48 of IPv6, what paths have in practice: Ethernet (1500), PPPoE (1492), tunnels and mobile networks
// (1400 to 1480). The smaller ones are for tunnels in tunnels, down to what every IPv4 host takes (576).
var packetSizes = [...]int{1472, 1452, 1412, 1372, packetBytes, leastPacket, 1096, 972, 772, narrowPacket}

const (
	leastPacket  = 1200 // what a path that carries packetBytes no longer may still carry (RFC 9000 §14)
	narrowPacket = 548  // and at the very least (RFC 1122 §3.3.3, less 28)
	mostPacket6  = 1452 // over IPv6

	sizeRounds  = 3 // MAX_PROBES of RFC 8899 §5.1.2
	checkRounds = 3
	mutedRounds = 10 // of a check in which nothing at all is answered
	lostInRow   = 3  // large packets, before a check

	raiseFirst = 10 * time.Second // the first search may have met an outage
	raiseThen  = time.Minute
	raiseAfter = 10 * time.Minute // PMTU_RAISE_TIMER of RFC 8899 §5.1.1
	fallFirst  = time.Second      // without large packets after a fall; ten times that after each further one

	answerSlack = 50 * time.Millisecond  // of the peer's answer to a probe
	answerBlind = 250 * time.Millisecond // while no round trip is known
)

type pmtuState uint8

const (
	pmtuOff    pmtuState = iota // fragments would arrive: probes prove nothing
	pmtuSearch                  // probes larger than size are under way
	pmtuDone                    // until the next search
	pmtuCheck                   // large packets get lost: does size still pass, where smaller ones do?
)

// A pmtu finds the largest packet that the path carries: Datagram Packetization Layer Path MTU
// Discovery (RFC 8899), without any help of ICMP. A probe is a PING of the size in question; its PONG
// confirms it.
//
//	reset --> search --- 3 rounds, or the top answered ---> done --- 10 s, 1 min, 10 min ---> search
//	                                                        ^  |
//	            size answered, or nothing at all ---- check <--+ large packets lost in a row
//	                                                    |
//	                     3 rounds in which only smaller ones were answered: size falls, done
//
// A search in which not even size itself was answered goes over into a check.
//
// A search asks for the likeliest size, the top, alone. If that is not answered, it asks twice more,
// together with all sizes between and size itself: on a path that loses nothing, one round trip or one timeout settles
// it. That is less patient than RFC 8899 §5.3, which has one probe under way at a time, and costs 6 KB.
//
// It has no clock and sends nothing. Guarded by Link.mu.
type pmtu struct {
	state pmtuState
	size  int           // what a packet may have now, from narrowPacket to top; packetBytes at first
	sure  bool          // a probe of size was answered on this path
	top   int           // of this path
	at    time.Duration // when step is wanted; never
	since time.Duration // start of the state: answers to earlier probes say nothing
	round int
	tried int // searches on this path that did not reach the top

	base    bool // a smaller one was answered in this round of the check
	best    int  // the largest of those in this check
	muted   int  // rounds of the check in which nothing was
	missed  int  // large packets lost since one arrived
	falls   int
	fellAt  time.Duration
	arrived time.Duration // sending time of the newest large packet that arrived
	missAt  time.Duration // sending time of the newest that was missed
	large   uint64        // counter of the newest large packet
	largeAt time.Duration // when the oldest large packet left of those after the newest report
	watched uint64        // large when nothing was reported any more
}

// reset begins anew on another path. enabled says that probes prove something.
func (p *pmtu) reset(enabled, ipv6 bool, now time.Duration) {
	*p = pmtu{size: packetBytes, top: mostPacket, at: never}
	if ipv6 {
		p.top = mostPacket6
	}
	if enabled {
		p.enter(pmtuSearch, now)
	}
}

func (p *pmtu) enter(s pmtuState, now time.Duration) {
	p.state, p.since, p.at, p.round = s, now, now, 0
	p.base, p.best, p.muted, p.missed = false, 0, 0, 0
}

// probeSizes is a list of sizes to send probes of.
type probeSizes struct {
	n    int
	size [len(packetSizes)]int
}

func (s *probeSizes) add(size int) {
	s.size[s.n] = size
	s.n++
}

// step returns the probes that are due. It is to be called at p.at; wait is how long an answer may take.
func (p *pmtu) step(now, wait time.Duration) (s probeSizes) {
	if now < p.at {
		return s
	}
	switch p.state {
	case pmtuOff:
		p.at = never
		return s
	case pmtuDone:
		p.enter(pmtuSearch, now)
	case pmtuCheck:
		if p.judge(now) {
			return s
		}
	}
	if p.state == pmtuCheck {
		s.add(p.size)
		for _, size := range packetSizes {
			if size <= leastPacket && size < p.size && (p.round+p.muted > 0 || size == p.least()) {
				s.add(size)
			}
		}
	} else {
		if p.round == sizeRounds {
			p.finish(now)
			return s
		}
		for _, size := range packetSizes {
			if size <= p.top && size > p.size {
				s.add(size)
				if p.round == 0 {
					break
				}
			}
		}
		if p.round > 0 && !p.sure {
			s.add(p.size)
		}
	}
	p.round++
	p.at = now + wait
	return s
}

// judge looks at the last round of a check and reports whether the check is over.
func (p *pmtu) judge(now time.Duration) bool {
	if p.round == 0 {
		return false
	}
	if !p.base {
		p.round-- // lost, or an outage: it says nothing about sizes
		if p.muted++; p.muted == mutedRounds {
			p.finish(now)
			return true
		}
	}
	p.base = false
	if p.round < checkRounds {
		return false
	}
	p.fall(now)
	return true
}

// fall goes back to what was answered.
func (p *pmtu) fall(now time.Duration) {
	if now-p.fellAt > 2*raiseAfter {
		p.falls = 0
	}
	best := p.best
	p.enter(pmtuDone, now)
	p.size, p.sure, p.fellAt = best, true, now
	p.watched = p.large // what was too large says nothing of what is not
	p.at = now + fallFirst
	for range p.falls {
		p.at = min(now+10*(p.at-now), now+raiseAfter)
	}
	p.falls++
}

// finish ends a search or a check.
func (p *pmtu) finish(now time.Duration) {
	if p.state == pmtuSearch && !p.sure && p.size > p.least() {
		p.enter(pmtuCheck, now)
		return
	}
	p.enter(pmtuDone, now)
	if p.size == p.top {
		p.at = never
		return
	}
	p.at = now + raiseAfter
	switch p.tried++; p.tried {
	case 1:
		p.at = now + raiseFirst
	case 2:
		p.at = now + raiseThen
	}
}

// answered takes in the PONG of a probe. It reports whether size has changed.
func (p *pmtu) answered(size int, sentAt, now time.Duration) bool {
	if p.state == pmtuOff || sentAt < p.since || size > p.top {
		return false
	}
	switch {
	case p.state == pmtuCheck && size >= p.size:
		p.sure = true
		p.finish(now)
	case p.state == pmtuCheck:
		p.base, p.best = true, max(p.best, size)
	case p.state == pmtuSearch && size == p.size:
		p.sure = true
	case p.state == pmtuSearch && size > p.size:
		p.size, p.sure = size, true
		if size == p.top {
			p.finish(now)
		}
		return true
	}
	return false
}

// least is the size above which packets tell of the path's MTU: what falls short of size is next tried with it.
// It is size itself at the bottom.
func (p *pmtu) least() int {
	if p.size > leastPacket {
		return leastPacket
	}
	for _, size := range packetSizes {
		if size < p.size {
			return size
		}
	}
	return p.size
}

// sent takes in that a packet left which asks for feedback; acked is the highest counter reported.
func (p *pmtu) sent(counter uint64, size int, acked uint64, now time.Duration) {
	if size > p.least() {
		if p.large <= max(acked, p.watched) {
			p.largeAt = now
		}
		p.large = counter
	}
}

// delivered takes in that a packet arrived which asks for feedback.
func (p *pmtu) delivered(size int, sentAt time.Duration) {
	if size <= p.least() {
		return
	}
	p.arrived = max(p.arrived, sentAt)
	if sentAt >= p.missAt {
		p.missed = 0
	}
}

// lost takes in that a packet did not arrive, which asks for feedback. Several large ones in a row,
// with no newer one that arrived, begin a check.
func (p *pmtu) lost(size int, sentAt, now time.Duration) {
	if size <= p.least() || size > p.size || sentAt < max(p.arrived, p.fellAt) {
		return
	}
	p.missAt = max(p.missAt, sentAt)
	if p.missed++; p.missed >= lostInRow {
		p.suspect(now)
	}
}

// suspect begins a check, unless one is under way or there is nowhere to fall. It is also to be called
// when a timeout took all that was in flight.
func (p *pmtu) suspect(now time.Duration) {
	if p.size > p.least() && (p.state == pmtuDone || p.state == pmtuSearch) {
		p.enter(pmtuCheck, now)
	}
}

// answerTime is how long the answer to a PING may take.
func (l *Link) answerTime() time.Duration {
	if l.cc.SmoothedRTT() == 0 {
		return answerBlind
	}
	return l.cc.SmoothedRTT() + 4*l.cc.Deviation() + answerSlack
}

// resizeLocked tells what the size of packets is now.
func (l *Link) resizeLocked() { l.mtu.Store(int32(l.pmtu.size - overheadBytes)) }

// fillSizesLocked sends the probes that are due and falls back if they showed that. It returns when it
// is wanted again.
func (l *Link) fillSizesLocked(b *batch, to netip.AddrPort, now time.Duration) time.Duration {
	p := &l.pmtu
	next := never
	if p.state == pmtuDone && p.size > p.least() && p.large > max(l.cc.Acked(), p.watched) {
		if next = max(l.cc.ProgressAt(), p.largeAt) + l.probeTimeout(); now >= next {
			p.watched = p.large // nothing is reported any more
			p.suspect(now)
		}
	}
	if now >= p.at && b.fits(len(packetSizes)) {
		before := p.size
		sizes := p.step(now, l.answerTime())
		slices.Sort(sizes.size[:sizes.n]) // a larger one and a smaller one after it would be sent, and lost, as one
		for _, size := range sizes.size[:sizes.n] {
			l.addPingLocked(b, to, size, nil, now)
		}
		if p.size < before {
			l.log.Info("path mtu fell", "bytes", p.size)
			l.resizeLocked()
			l.stallLocked(now) // what is in flight was too large
		}
	}
	return min(next, p.at)
}

// sizesLocked takes in what a feedback says of packets with counters above acked.
func (l *Link) sizesLocked(f *feedback, acked uint64, now time.Duration) {
	if l.pmtu.size == l.pmtu.least() {
		return
	}
	// Newest first: what was lost before one that arrived says nothing.
	for i := range f.n {
		r := f.ranges[i]
		for c := r.last; c >= max(r.first, acked+1); c-- {
			if rec := l.cc.Record(c); rec != nil {
				l.pmtu.delivered(int(rec.Size), rec.SentAt)
			}
		}
		if i+1 == f.n || r.first <= acked {
			break // nothing is said of what lies before
		}
		for c := r.first - 1; c > max(f.ranges[i+1].last, acked); c-- {
			if rec := l.cc.Record(c); rec != nil {
				l.pmtu.lost(int(rec.Size), rec.SentAt, now)
			}
		}
	}
}
