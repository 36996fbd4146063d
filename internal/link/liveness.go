package link

import (
	mrand "math/rand/v2"
	"time"
)

// How long silence may last. All of it is counted from the first packet that the peer had to answer and
// since which nothing came.
//
//	Up ── 0.7 s or 4 PTO ──> Suspect ── 3 s or 4 PTO, half of DeadAfter at most ──> Interrupted ── DeadAfter ──> Dead
//	 <────────── any packet that opens ──┘──────────────────┘
const (
	firstPing        = 300 * time.Millisecond // or two probe timeouts: nothing is heard while sending
	suspectAfter     = 700 * time.Millisecond
	interruptedAfter = 3 * time.Second
	consentFor       = 30 * time.Second // after that nothing leaves but PINGs (RFC 7675 §5.1)
	patientFor       = time.Hour
	deadAfter        = 10 * time.Minute

	pingSuspect     = 250 * time.Millisecond // between PINGs, by how long the silence lasts
	pingInterrupted = time.Second            // one of either side's finds the path that is there again
	pingPatient     = 5 * time.Second

	// A receiver does not know whether the sender has ended or cannot reach it any more: it asks, once.
	// A NAT that forgot this side learns of it anew by that very packet.
	tailAfter = 300 * time.Millisecond

	keepaliveLeast = 20 * time.Second
	keepaliveMost  = 25 * time.Second
)

// liveness watches for silence. Guarded by Link.mu.
type liveness struct {
	begun     bool // there is an address
	nudged    bool // a PING is wanted now
	state     State
	silent    time.Duration // first packet sent that should have had an answer, and nothing was heard since; 0: none
	begunAt   time.Duration
	sentAt    time.Duration // last packet
	pingAt    time.Duration // last PING of the link's own
	spread    time.Duration // by which the next may come earlier than a second or more after it
	keepalive time.Duration // idle time until the next
	reason    string        // for CLOSE
}

func (v *liveness) begin(now time.Duration) {
	v.begun, v.begunAt, v.sentAt = true, now, now
	v.keepalive = keepalive()
}

func keepalive() time.Duration {
	return keepaliveLeast + mrand.N(keepaliveMost-keepaliveLeast)
}

// sent takes note of a packet; answered says that the peer must answer it in one way or another.
func (v *liveness) sent(now time.Duration, answered bool) {
	v.sentAt = now
	if answered && v.silent == 0 {
		v.silent = now
	}
}

// consent reports whether the peer answered lately enough to be sent more than PINGs.
func (v *liveness) consent(now time.Duration) bool {
	return v.silent == 0 || now-v.silent < consentFor
}

// pinged takes note of a PING. Both sides begin to ask at the same moment: were they to go on in step, a path
// that is there again would be found half as soon.
func (v *liveness) pinged(now time.Duration) {
	v.pingAt, v.spread = now, mrand.N(pingInterrupted/2)
}

// between is the time between PINGs after so long a silence.
func (v *liveness) between(silence time.Duration) time.Duration {
	switch {
	case silence < interruptedAfter:
		return pingSuspect
	case silence < patientFor:
		return pingInterrupted - v.spread
	}
	return pingPatient - v.spread
}

// Nudge sends a PING now, which the peer must answer: after a change of this side's network it tells the
// peer where packets come from now, or begins the silence by which the loss of the path is noticed.
func (l *Link) Nudge() {
	l.mu.Lock()
	l.live.nudged = l.live.begun
	l.mu.Unlock()
	l.poke()
}

// watchLocked follows the state. It reports whether a PING is due and when it is wanted again.
func (l *Link) watchLocked(now time.Duration) (due bool, next time.Duration) {
	v := &l.live
	if !v.begun {
		return false, never
	}
	heard := time.Duration(l.pathAt.Load())
	if v.silent != 0 && heard >= v.silent {
		if v.state == Interrupted {
			l.stallLocked(now) // of what was in flight nothing is
			l.cc.Resume()
		}
		v.silent = 0
		l.stateLocked(Up)
	}
	if v.nudged {
		v.nudged = false
		return true, now
	}
	pto := l.probeTimeout()
	if v.silent == 0 {
		// Nothing heard counts as well: probes for the MTU, which may get no answer, are no keepalive.
		next = min(v.sentAt, max(heard, v.begunAt)) + v.keepalive
		if data := time.Duration(l.dataAt.Load()); data != 0 && data > v.pingAt {
			next = min(next, heard+max(tailAfter, 2*pto))
		}
		return now >= next, next
	}
	end := v.silent + l.cfg.DeadAfter
	if now >= end {
		l.endLocked(ErrDead)
		return false, never
	}
	next = v.silent + max(firstPing, 2*pto)
	if v.pingAt > v.silent {
		next = max(next, v.pingAt+v.between(now-v.silent))
	}
	due = now >= next
	next = min(next, end)
	for _, x := range [...]struct {
		s      State
		after  time.Duration
		atMost time.Duration // of a link that ends sooner, half its time is left for another path
	}{{Suspect, suspectAfter, l.cfg.DeadAfter / 4}, {Interrupted, interruptedAfter, l.cfg.DeadAfter / 2}} {
		if at := v.silent + min(max(x.after, 4*pto), x.atMost); now < at {
			next = min(next, at)
		} else if v.state < x.s {
			l.stateLocked(x.s)
		}
	}
	return due, next
}

func (l *Link) stateLocked(s State) {
	if l.live.state == s {
		return
	}
	l.live.state = s
	l.broken.Store(s != Up)
	l.states = append(l.states, s)
}
