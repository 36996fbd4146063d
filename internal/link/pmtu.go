package link

import (
	"net/netip"
	"time"
)

// Packet sizes are in bytes of UDP payload. The larger ones fit, with 28 bytes of IPv4 and UDP headers
// or 48 of IPv6, what paths have in practice: Ethernet (1500), PPPoE (1492), tunnels and mobile networks
// (1400 to 1480).
var packetSizes = [...]int{1472, 1452, 1412, 1372, packetBytes}

const (
	leastPacket = 1200 // what a path that carries packetBytes no longer may still carry (RFC 9000 §14)
	mostPacket6 = 1452 // over IPv6

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
	pmtuCheck                   // large packets get lost: does size still pass, where leastPacket does?
)

// A pmtu finds the largest packet that the path carries: Datagram Packetization Layer Path MTU
// Discovery (RFC 8899), without any help of ICMP. A probe is a PING of the size in question; its PONG
// confirms it.
//
//	reset --> search --- 3 rounds, or the top answered ---> done --- 10 s, 1 min, 10 min ---> search
//	                                                        ^  |
//	            size answered, or nothing at all ---- check <--+ large packets lost in a row
//	                                                    |
//	                     3 rounds in which only leastPacket was answered: size falls, done
//
// A search asks for the likeliest size, the top, alone. If that is not answered, it asks twice more,
// together with all sizes between: on a path that loses nothing, one round trip or one timeout settles
// it. That is less patient than RFC 8899 §5.3, which has one probe under way at a time, and costs 6 KB.
//
// It has no clock and sends nothing. Guarded by Link.mu.
type pmtu struct {
	state pmtuState
	size  int           // what a packet may have now, from leastPacket to top; packetBytes at first
	top   int           // of this path
	at    time.Duration // when step is wanted; never
	since time.Duration // start of the state: answers to earlier probes say nothing
	round int
	tried int // searches on this path that did not reach the top

	base    bool // leastPacket was answered in this round of the check
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
	p.base, p.muted, p.missed = false, 0, 0
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
		s.add(leastPacket)
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

// fall goes back to what every path carries.
func (p *pmtu) fall(now time.Duration) {
	if now-p.fellAt > 2*raiseAfter {
		p.falls = 0
	}
	p.enter(pmtuDone, now)
	p.size, p.fellAt = leastPacket, now
	p.at = now + fallFirst
	for range p.falls {
		p.at = min(now+10*(p.at-now), now+raiseAfter)
	}
	p.falls++
}

// finish ends a search or a check.
func (p *pmtu) finish(now time.Duration) {
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
		p.finish(now)
	case p.state == pmtuCheck:
		p.base = true
	case p.state == pmtuSearch && size > p.size:
		p.size = size
		if size == p.top {
			p.finish(now)
		}
		return true
	}
	return false
}

// sent takes in that a packet left which asks for feedback; acked is the highest counter reported.
func (p *pmtu) sent(counter uint64, size int, acked uint64, now time.Duration) {
	if size > leastPacket {
		if p.large <= max(acked, p.watched) {
			p.largeAt = now
		}
		p.large = counter
	}
}

// delivered takes in that a packet arrived which asks for feedback.
func (p *pmtu) delivered(size int, sentAt time.Duration) {
	if size <= leastPacket {
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
	if size <= leastPacket || sentAt < p.arrived {
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
	if p.size > leastPacket && (p.state == pmtuDone || p.state == pmtuSearch) {
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
	if p.state == pmtuDone && p.size > leastPacket && p.large > max(l.cc.Acked(), p.watched) {
		if next = max(l.cc.ProgressAt(), p.largeAt) + l.probeTimeout(); now >= next {
			p.watched = p.large // nothing is reported any more
			p.suspect(now)
		}
	}
	if now >= p.at && b.fits(len(packetSizes)) {
		before := p.size
		sizes := p.step(now, l.answerTime())
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
	if l.pmtu.size == leastPacket {
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
