package link

import (
	"net/netip"
	"time"

	"adit/internal/congestion"
)

// Loss repair. A payload with a key stays here until the peer's feedback names a packet that carried
// it:
//
//	flow's queue -> flying -> reported, released
//	                 ^  |
//	                 |  v lost (RACK), probed (PTO), stalled
//	        flow's lost, again
//
// Each sending has a counter of its own, so a report says which of them arrived, and what is sent
// again needs no other treatment than what is sent first: pacing, window and rate samples see packets.
//
// A packet is lost when one sent later was reported and it is late by more than the reordering window
// (RACK, RFC 8985 §6). Its lateness is that of the newest packet reported, plus how long the receiver
// waited before it told, so it does not depend on how often that tells. The reordering window begins
// small, and grows with what came later than thought (RFC 8985 §6.2, but by the lateness seen instead
// of by steps).
//
// Where nothing is reported any more the oldest packet is sent again, as a probe (PTO, RFC 9002 §6.2):
// its report tells of all before it, and the receiver waits for the oldest longest. After two probes
// all that flies is lost.
const (
	mostSuspects = 1024
	reoLeast     = time.Millisecond
	reoDecay     = 64 // round trips in which the learnt part falls to 1/e
	probeLeast   = 10 * time.Millisecond
	probeUnknown = 250 * time.Millisecond // before the first round trip
	probeSlack   = 5 * time.Millisecond   // of both ends' timers
	mostRepeats  = 2                      // probes, before all is lost
)

type packetState uint8

const (
	stateQueued packetState = iota // in its flow's queue
	stateFlying
	stateLost  // waits to be sent again
	stateAgain // the same, not for the first time
)

type packetList struct {
	head, tail *packet
}

func (l *packetList) add(p *packet) {
	p.next, p.prev = nil, l.tail
	if l.tail == nil {
		l.head = p
	} else {
		l.tail.next = p
	}
	l.tail = p
}

func (l *packetList) remove(p *packet) {
	if p.prev == nil {
		l.head = p.next
	} else {
		p.prev.next = p.next
	}
	if p.next == nil {
		l.tail = p.prev
	} else {
		p.next.prev = p.prev
	}
	p.next, p.prev = nil, nil
}

// A suspect is a packet that was declared lost and might come all the same. It is still the one meant
// if the packet's counters include counter, for those are never used twice.
type suspect struct {
	packet  *packet
	counter uint64
	sentAt  time.Duration
	lostAt  time.Duration
}

// repairs are the packets with keys that left. Guarded by Link.mu.
type repairs struct {
	flying packetList // in the order of their last sending; what is lost waits in its flow

	mark     time.Duration // lateness of a packet at the last feedback: mark less its sentAt
	offset   time.Duration // when that feedback came, less mark
	learnt   time.Duration // lateness that is no loss
	decayAt  time.Duration // when learnt decayed last
	probes   int           // sent since the last report
	probeAt  time.Duration // the last of them
	suspects []suspect     // a ring, in the order of lostAt
	oldest   int           // in suspects
	twins    twins

	resent   uint64 // packets sent again
	spurious uint64 // of those found lost, reported after all
}

// flyLocked takes in a packet that leaves now, under the counter used last.
func (l *Link) flyLocked(p *packet, now time.Duration) {
	r := &l.repairs
	l.detachLocked(p, p.at[0])
	rec := l.cc.Record(l.seal.counter)
	p.at[0], p.at[1] = p.at[1], l.seal.counter
	p.mates[0], p.mates[1] = p.mates[1], rec.Load
	p.sentAt, p.state = now, stateFlying
	rec.Load = p
	r.flying.add(p)
}

// detachLocked makes a packet's record forget it.
func (l *Link) detachLocked(p *packet, counter uint64) {
	rec := l.cc.Record(counter)
	if rec == nil {
		return
	}
	for at := &rec.Load; *at != nil; at = (*at).mate(counter) {
		if *at == p {
			*at = *p.mate(counter)
			return
		}
	}
}

// mate is the link to the next of the packets that left under a counter, which must be one of p's.
func (p *packet) mate(counter uint64) **packet {
	if p.at[1] == counter {
		return &p.mates[1]
	}
	return &p.mates[0]
}

// resolveLocked ends a packet that was sent: the peer has it, or nobody wants it.
func (l *Link) resolveLocked(p *packet) {
	r := &l.repairs
	switch p.state {
	case stateFlying:
		r.flying.remove(p)
	case stateLost, stateAgain:
		l.sched.found(p)
	}
	l.detachLocked(p, p.at[0])
	l.detachLocked(p, p.at[1])
	l.sched.release(p)
}

// loseLocked moves a flying packet to those that are sent again.
func (l *Link) loseLocked(p *packet, now time.Duration) {
	r := &l.repairs
	r.flying.remove(p)
	if p.state = stateLost; p.at[0] != 0 {
		p.state = stateAgain
	}
	l.sched.lose(p)
	if r.suspects == nil {
		r.suspects = make([]suspect, 0, mostSuspects)
	}
	s := suspect{p, p.at[1], p.sentAt, now}
	if len(r.suspects) < mostSuspects {
		r.suspects = append(r.suspects, s)
	} else {
		r.suspects[r.oldest] = s
		r.oldest = (r.oldest + 1) % mostSuspects
	}
}

// reo is how late a packet may be.
func (l *Link) reo() time.Duration {
	least := reoLeast + l.cc.State().MinRTT/16
	return max(least, min(l.repairs.learnt, l.cc.SmoothedRTT()))
}

// learn takes note of a packet that came although it was late.
func (r *repairs) learn(late time.Duration) {
	r.learnt = max(r.learnt, late+late/4)
}

// reportLocked takes in the ranges of a feedback that congestion believed; acked is the highest counter
// reported before it. It reports whether run has something to do or to wait for.
func (l *Link) reportLocked(f *feedback, acked uint64, now time.Duration) bool {
	r := &l.repairs
	if f.highest > acked {
		r.probes = 0
	}
	for i := range f.n {
		s := f.ranges[i]
		if s.last <= acked {
			break
		}
		for c := max(s.first, acked+1); c <= s.last; c++ {
			for rec := l.cc.Record(c); rec != nil && rec.Load != nil; {
				l.resolveLocked(rec.Load)
			}
		}
	}
	for p := r.flying.head; p != nil && p.at[1] <= acked; {
		next := p.next
		if f.has(p.at[1]) {
			r.learn(r.mark - p.sentAt) // it was that late, and then it came
			l.resolveLocked(p)
		}
		p = next
	}
	high := l.cc.Record(f.highest)
	mark := high.SentAt + min(f.delay, now-high.SentAt)
	l.suspectsLocked(f, mark, now)
	r.mark, r.offset = mark, now-mark
	if now-r.decayAt >= l.cc.SmoothedRTT() {
		r.learnt -= r.learnt / reoDecay
		r.decayAt = now
	}
	l.loseLateLocked(mark, now)
	return l.sched.lost > 0 || r.flying.head != nil && r.flying.head.at[1] < f.highest
}

// suspectsLocked looks for packets among those that were found lost.
func (l *Link) suspectsLocked(f *feedback, mark, now time.Duration) {
	r := &l.repairs
	keep := 2 * l.cc.SmoothedRTT()
	for i := range r.suspects {
		s := &r.suspects[i]
		switch {
		case s.packet == nil:
			continue
		case s.packet.at[0] != s.counter && s.packet.at[1] != s.counter || now-s.lostAt > keep:
		case f.has(s.counter):
			r.spurious++
			r.learn((r.mark+mark)/2 - s.sentAt) // it came between the two feedbacks
			l.resolveLocked(s.packet)
		default:
			continue
		}
		s.packet = nil
	}
}

// loseLateLocked finds lost what flies, was overtaken, and is later than allowed when lateness is
// measured from mark.
func (l *Link) loseLateLocked(mark, now time.Duration) {
	r := &l.repairs
	reo := l.reo()
	for p := r.flying.head; p != nil && p.at[1] < l.cc.Acked() && mark-p.sentAt >= reo; p = r.flying.head {
		l.loseLocked(p, now)
	}
}

// watchRepairsLocked finds lost what is lost by now, and sends the probe that is due. It returns when
// it is wanted again.
func (l *Link) watchRepairsLocked(b *batch, to netip.AddrPort, now time.Duration) time.Duration {
	r := &l.repairs
	wait := congestion.FeedbackInterval(l.cc.SmoothedRTT()) // a late packet that comes is told after this
	if p := r.flying.head; p != nil && p.at[1] < l.cc.Acked() {
		l.loseLateLocked(now-r.offset-wait, now)
	}
	p := r.flying.head
	if p == nil {
		return never
	}
	next := never
	if p.at[1] < l.cc.Acked() {
		next = p.sentAt + l.reo() + r.offset + wait
	}
	if l.cc.Stalled() {
		at := l.cc.Timeout()
		if now >= at {
			l.stallLocked(now)
			return now
		}
		return min(next, at)
	}
	at := max(l.cc.ProgressAt(), p.sentAt, r.probeAt) + l.probeTimeout()<<r.probes
	if now < at {
		return min(next, at)
	}
	if r.probes == mostRepeats {
		l.stallLocked(now)
		return now
	}
	if !b.full() {
		r.flying.remove(p)
		p.state = stateQueued // on no list
		r.probes++
		r.probeAt = now
		r.resent++
		l.addDataLocked(b, p, to, now)
	}
	return now
}

// stallLocked takes all that is in flight as lost.
func (l *Link) stallLocked(now time.Duration) {
	r := &l.repairs
	l.cc.Stall(now)
	r.probes = 0
	for r.flying.head != nil {
		l.loseLocked(r.flying.head, now)
	}
}

// probeTimeout is how long without a report a packet waits for a probe.
func (l *Link) probeTimeout() time.Duration {
	srtt := l.cc.SmoothedRTT()
	if srtt == 0 {
		return probeUnknown
	}
	return max(srtt+4*l.cc.Deviation()+congestion.FeedbackInterval(srtt)+probeSlack, probeLeast)
}

// Forget drops what a flow has queued, and repairs nothing of it any more. It is for streams that
// were reset; flow 0 is not forgotten.
func (l *Link) Forget(id uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.sched.flows[id]
	if f == nil {
		return
	}
	l.sched.drop(f)
	for i := range f.pending.ring {
		if p := f.pending.ring[i]; p != nil {
			l.resolveLocked(p)
		}
	}
}
