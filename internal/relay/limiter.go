package relay

import (
	"container/list"
	"net/netip"
	"time"

	"golang.org/x/time/rate"
)

const (
	// A client asks a few times at its start and every some seconds while an offer waits; behind one
	// address there may be many. What is above this looks like a forged source.
	perSource      = 50 // responses a second to one address, or to one IPv6 /56
	perSourceBurst = 200
	maxSources     = 8192 // addresses remembered; the least recently seen is forgotten
	perSecond      = 20_000
)

// limiter says how often an address is answered. One goroutine at a time may use it.
type limiter struct {
	all    *rate.Limiter
	known  map[netip.Prefix]*list.Element
	recent *list.List // of *source, the most recently seen in front
}

type source struct {
	addr netip.Prefix
	rate *rate.Limiter
}

func newLimiter() *limiter {
	return &limiter{
		all:    rate.NewLimiter(perSecond, perSecond),
		known:  make(map[netip.Prefix]*list.Element),
		recent: list.New(),
	}
}

// sourceOf returns what counts as one address: an IPv4 address, or an IPv6 /56.
func sourceOf(addr netip.Addr) (netip.Prefix, bool) {
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 56
	}
	p, err := addr.Prefix(bits)
	return p, err == nil
}

// allow says whether one more response may go to addr at the time now.
func (l *limiter) allow(addr netip.Addr, now time.Time) bool {
	p, ok := sourceOf(addr)
	if !ok {
		return false
	}
	e, ok := l.known[p]
	if ok {
		l.recent.MoveToFront(e)
	} else {
		var s *source
		if len(l.known) < maxSources {
			s = &source{rate: rate.NewLimiter(perSource, perSourceBurst)}
		} else {
			// Take over the oldest, and its bucket as it is: it is full, unless it is in use by more
			// addresses than the table holds, which is when to be careful.
			old := l.recent.Back()
			s = l.recent.Remove(old).(*source)
			delete(l.known, s.addr)
		}
		s.addr = p
		e = l.recent.PushFront(s)
		l.known[p] = e
	}
	return e.Value.(*source).rate.AllowN(now, 1) && l.all.AllowN(now, 1)
}
