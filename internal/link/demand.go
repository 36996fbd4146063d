package link

import (
	"fmt"

	"golang.org/x/time/rate"
)

// ErrFlood is the end of a link whose peer asks more than any honest one does: PINGs, CHALLENGEs and control messages
// want an answer each. It is an ErrClosed, and the peer is told why.
var ErrFlood = fmt.Errorf("a flood of questions from the peer: %w", ErrClosed)

// A peer that searches a path through a hard NAT asks from hundreds of sockets, several times each.
const (
	demandBurst = 8_000
	demandRate  = 500 // a second
)

func newDemands() *rate.Limiter { return rate.NewLimiter(demandRate, demandBurst) }

// demanded counts a packet that wants an answer and reports whether it gets one.
func (l *Link) demanded() bool {
	if l.demands.Allow() {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.live.reason = FloodReason
		l.endLocked(ErrFlood)
		l.poke()
	}
	return false
}

// FloodReason is what a peer that floods is told.
const FloodReason = "broken: a flood of questions"
