package punch

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// A peer with twelve candidates to reach us by sends 120 checks a second, and as many again in
	// answer to ours, for each generation.
	checksPerSecond = 500
	checkBurst      = 500
	allPerSecond    = 4000 // whatever the number of sources, which may be forged
	maxSources      = 1024
)

// A bucket is a token bucket that starts full.
type bucket struct {
	spent float64
	at    time.Time
}

func (b *bucket) take(now time.Time, rate, burst float64) bool {
	b.spent = max(0, b.spent-now.Sub(b.at).Seconds()*rate)
	b.at = now
	if b.spent+1 > burst {
		return false
	}
	b.spent++
	return true
}

// A limiter bounds how many STUN requests each source may cause us to authenticate.
type limiter struct {
	mu      sync.Mutex
	all     bucket
	sources map[netip.Addr]bucket // at most maxSources
}

// allow accounts for one request. The hosts of an IPv6 /64 share one account.
func (l *limiter) allow(from netip.Addr, now time.Time) bool {
	if from.Is6() {
		if p, err := from.Prefix(64); err == nil {
			from = p.Addr()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b, known := l.sources[from]
	if !known && len(l.sources) >= maxSources {
		for a := range l.sources { // any: forged sources must not lock a real one out for good
			delete(l.sources, a)
			break
		}
	}
	ok := b.take(now, checksPerSecond, checkBurst) && l.all.take(now, allPerSecond, allPerSecond)
	if l.sources == nil {
		l.sources = make(map[netip.Addr]bucket)
	}
	l.sources[from] = b
	return ok
}
