package simnet

import (
	"math"
	"math/rand/v2"
	"time"
)

// A Line is what one direction of a path does to datagrams, without the datagrams: it says when each arrives. It has
// no clock and starts no goroutine, so that a simulation may run it by events. It is not safe for concurrent use.
type Line struct {
	conf   Config
	rand   *rand.Rand
	seed   uint64
	bad    bool          // of Config.Burst
	busy   time.Duration // until when the bottleneck is
	last   time.Duration // the last arrival, if Ordered
	queue  []queued      // at a rate that varies: what waits, the first to leave first
	waits  int           // bytes of these
	counts Counts
	tokens float64 // of Config.Police
	filled time.Duration
}

type queued struct {
	at   time.Duration // when it has left
	size int
}

// NewLine returns a line. Lines with the same seeds decide alike.
func NewLine(c Config, seed, other uint64) *Line {
	return &Line{conf: c, rand: rand.New(rand.NewPCG(seed, other)), seed: seed ^ other<<32, tokens: c.Police.Burst}
}

// Change lets f change what the line does from now on. What is in flight is not affected.
func (l *Line) Change(f func(c *Config)) { f(&l.conf) }

// Counts returns what happened so far.
func (l *Line) Counts() Counts { return l.counts }

// Send appends to arrivals when a datagram of size bytes, headers included, arrives that is sent now: never, once, or
// twice. Times must not go back.
func (l *Line) Send(now time.Duration, size int, arrivals []time.Duration) []time.Duration {
	c := &l.conf
	l.counts.Sent++
	l.counts.SentBytes += uint64(size)
	if c.Down || c.MTU > 0 && size > c.MTU {
		l.counts.Lost++
		return arrivals
	}
	at, ok := l.leave(now, size)
	if !ok {
		l.counts.Dropped++
		return arrivals
	}
	if l.lost() {
		l.counts.Lost++
		return arrivals
	}
	arrivals = append(arrivals, l.arrive(at))
	if c.Double > 0 && l.rand.Float64() < c.Double {
		l.counts.Doubled++
		arrivals = append(arrivals, l.arrive(at))
	}
	return arrivals
}

// leave returns when a datagram has left the bottleneck, or false if there is no room for it.
func (l *Line) leave(now time.Duration, size int) (at time.Duration, ok bool) {
	c := &l.conf
	if c.Police.Rate > 0 {
		l.tokens = min(l.tokens+c.Police.Rate*(now-l.filled).Seconds(), c.Police.Burst)
		l.filled = now
		if l.tokens < float64(size) {
			return 0, false
		}
		l.tokens -= float64(size)
	}
	if c.Rate <= 0 && c.Swing.Every <= 0 {
		return now, true
	}
	varies := c.Swing.Every > 0 || c.Grant > 0
	l.busy = max(l.busy, now)
	wait := l.busy - now
	waits := wait.Seconds() * c.Rate
	if varies {
		n := 0
		for n < len(l.queue) && l.queue[n].at <= now {
			l.waits -= l.queue[n].size
			n++
		}
		l.queue = append(l.queue[:0], l.queue[n:]...)
		waits = float64(l.waits)
	}
	if waits > 0 && waits+float64(size) > float64(c.Queue) {
		return 0, false
	}
	l.counts.Waits.Add(wait)
	l.busy = l.through(l.busy, float64(size))
	at = l.busy
	if c.Grant > 0 {
		if up := at.Truncate(c.Grant); up < at {
			at = up + c.Grant
		}
	}
	if varies {
		l.queue = append(l.queue, queued{at, size})
		l.waits += size
	}
	return at, true
}

// through returns when the bottleneck, free from a time on, has sent so many bytes.
func (l *Line) through(at time.Duration, bytes float64) time.Duration {
	s := l.conf.Swing
	if s.Every <= 0 {
		return at + time.Duration(bytes/l.conf.Rate*float64(time.Second))
	}
	for {
		end := at.Truncate(s.Every) + s.Every
		rate := l.RateAt(at)
		if fits := rate * (end - at).Seconds(); bytes > fits {
			bytes -= fits
			at = end
			continue
		}
		return min(at+time.Duration(bytes/rate*float64(time.Second)), end)
	}
}

// RateAt returns the rate at a time, in bytes a second.
func (l *Line) RateAt(at time.Duration) float64 {
	s := l.conf.Swing
	if s.Every <= 0 {
		return l.conf.Rate
	}
	x := rand.New(rand.NewPCG(l.seed, uint64(at/s.Every))).Float64()
	return s.Least * math.Pow(s.Most/s.Least, x)
}

// lost decides about one datagram.
func (l *Line) lost() bool {
	if b := l.conf.Burst; b.Enter > 0 {
		turn := b.Enter
		if l.bad {
			turn = b.Leave
		}
		if l.rand.Float64() < turn {
			l.bad = !l.bad
		}
		if l.bad && l.rand.Float64() < b.Loss {
			return true
		}
	}
	return l.conf.Loss > 0 && l.rand.Float64() < l.conf.Loss
}

// arrive returns when arrives what leaves the bottleneck at a time.
func (l *Line) arrive(at time.Duration) time.Duration {
	c := &l.conf
	at += c.Delay
	if c.Jitter > 0 {
		at += time.Duration(l.rand.Int64N(int64(c.Jitter)))
	}
	if s := c.Stall; s.Every > 0 {
		if in := at % s.Every; in >= s.Every-s.For {
			at += s.Every - in
		}
	}
	if c.Ordered {
		at = max(at, l.last)
		l.last = at
	}
	if c.Grain > 0 {
		if up := at.Truncate(c.Grain); up < at {
			at = up + c.Grain
		}
	}
	return at
}

// flip changes a bit of a datagram with the probability of that.
func (l *Line) flip(d []byte) {
	if l.conf.Flip > 0 && len(d) > 0 && l.rand.Float64() < l.conf.Flip {
		d[l.rand.IntN(len(d))] ^= 1 << l.rand.IntN(8)
	}
}
