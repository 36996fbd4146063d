package simnet

import (
	"net/netip"
	"sync"
	"time"
)

// HeaderBytes is what a datagram costs at the rate and in the queue beside its payload: IPv4 and UDP.
const HeaderBytes = 28

const (
	// mostRun and mostRunBytes bound what a handler gets at once, as UDP_GRO does.
	mostRun      = 64
	mostRunBytes = 65535 - HeaderBytes

	// keepBuffers bounds the buffers kept for the next datagrams, in each pipe.
	keepBuffers = 1 << 15
)

// A Config says what a pipe does to datagrams. The zero value delivers each at once.
type Config struct {
	// Rate of the bottleneck in bytes a second, headers included; 0 is unlimited.
	Rate float64
	// Queue is how many bytes may wait for the rate, the datagram on its way out included. One that
	// finds no room is dropped. There is always room for one.
	Queue int
	// Delay is what each takes behind the bottleneck.
	Delay time.Duration
	// Jitter is up to how much more, uniformly. It reorders unless Ordered is set: then one that would
	// overtake arrives together with the one before it.
	Jitter  time.Duration
	Ordered bool
	// Loss is the probability to be lost behind the bottleneck.
	Loss float64
	// Burst loses more of them in a row.
	Burst Burst
	// Double is the probability to arrive twice, each copy with its own jitter.
	Double float64
	// MTU in bytes of IP packet: what is larger is dropped without a word. 0 is unlimited.
	MTU int
	// Down drops everything, what is in the queue excepted.
	Down bool
	// Swing draws the rate anew at intervals, in place of Rate.
	Swing Swing
	// Grant is how often the bottleneck sends: what is due in between leaves together at the next multiple, as on
	// links where a scheduler grants airtime.
	Grant time.Duration
	// Stall holds everything back at intervals, behind the bottleneck.
	Stall Stall
	// Police drops what exceeds a rate, without a queue.
	Police Police
	// Flip is the probability that one bit of a datagram changes.
	Flip float64
	// Grain delivers together what arrives within so long, as interrupt moderation does; 0 is each on
	// its own.
	Grain time.Duration
}

// A Burst is the model of Gilbert and Elliott: a path is good, or bad and then loses Loss of what is sent
// over it. For each datagram it turns bad with probability Enter and good again with Leave, so a bad
// time lasts 1/Leave datagrams on average. The zero value is never bad.
type Burst struct {
	Enter, Leave, Loss float64
}

// A Swing is a rate that is drawn log-uniformly from Least to Most, in bytes a second, each Every. Which one it is
// depends on the seed and on the time alone.
type Swing struct {
	Every       time.Duration
	Least, Most float64
}

// A Stall delivers nothing for For at the end of each Every. What would have arrived does so when it ends.
type Stall struct {
	Every, For time.Duration
}

// A Police is a token bucket: Rate in bytes a second and Burst in bytes, headers included. Rate 0 is none.
type Police struct {
	Rate, Burst float64
}

// Counts is what happened in a pipe so far, in datagrams.
type Counts struct {
	Sent      uint64 // into it
	SentBytes uint64 // of these, headers included
	Dropped   uint64 // at the queue
	Lost      uint64 // by Loss, Burst, MTU and Down
	Delivered uint64 // by a Pipe to an address, doubles included
	Doubled   uint64
	Waits     Histogram // how long those that were not dropped waited for the rate
}

// Sub returns what happened since the counts were before.
func (c Counts) Sub(before Counts) Counts {
	c.Sent -= before.Sent
	c.SentBytes -= before.SentBytes
	c.Dropped -= before.Dropped
	c.Lost -= before.Lost
	c.Delivered -= before.Delivered
	c.Doubled -= before.Doubled
	c.Waits.sub(&before.Waits)
	return c
}

// A Pipe is one direction of a path. Its methods may be called from several goroutines.
type Pipe struct {
	net  *Network
	wake chan struct{} // capacity 1: it need not be told twice
	done chan struct{} // closed by Network.Close
	over chan struct{} // closed when run has returned

	start  time.Time // the line's time 0
	mu     sync.Mutex
	line   Line
	flying flights
	seq    uint64
	asleep time.Time // until when run sleeps
	due    []time.Duration
	tap    func(b []byte, from, to netip.AddrPort)
	free   [][]byte
}

// Change lets f change what the pipe does from now on. What is in flight is not affected.
func (p *Pipe) Change(f func(c *Config)) {
	p.mu.Lock()
	f(&p.line.conf)
	p.mu.Unlock()
}

// Tap lets f see each datagram as it is sent, before anything happens to it. f must keep nothing of b,
// nor use the pipe. nil ends it.
func (p *Pipe) Tap(f func(b []byte, from, to netip.AddrPort)) {
	p.mu.Lock()
	p.tap = f
	p.mu.Unlock()
}

// Counts returns what happened so far.
func (p *Pipe) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.line.counts
}

// Inject lets a datagram arrive at to after delay and jitter, as if from had sent it. It is not counted as
// sent.
func (p *Pipe) Inject(b []byte, from, to netip.AddrPort) {
	p.mu.Lock()
	p.flyLocked(b, from, to, p.start.Add(p.line.arrive(time.Since(p.start))))
	p.mu.Unlock()
}

// send reports whether the pipe is open.
func (p *Pipe) send(b []byte, segment int, from, to netip.AddrPort) bool {
	select {
	case <-p.done:
		return false
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for segment > 0 && len(b) > 0 {
		d := b[:min(segment, len(b))]
		b = b[len(d):]
		if p.tap != nil {
			p.tap(d, from, to)
		}
		p.sendLocked(d, from, to, now)
	}
	return true
}

func (p *Pipe) sendLocked(d []byte, from, to netip.AddrPort, now time.Time) {
	p.due = p.line.Send(now.Sub(p.start), len(d)+HeaderBytes, p.due[:0])
	for _, at := range p.due {
		p.flyLocked(d, from, to, p.start.Add(at))
	}
}

// flyLocked lets a copy of d arrive at the given time.
func (p *Pipe) flyLocked(d []byte, from, to netip.AddrPort, at time.Time) {
	var b []byte
	if n := len(p.free); n > 0 {
		b, p.free = p.free[n-1], p.free[:n-1]
	}
	p.seq++
	b = append(b[:0], d...)
	p.line.flip(b)
	p.flying.push(flight{at, p.seq, b, from, to})
	if p.asleep.IsZero() || !at.Before(p.asleep) {
		return // it wakes up by itself, or is awake
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run delivers what arrives.
func (p *Pipe) run() {
	defer close(p.over)
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	var due []flight
	run := make([]byte, 0, mostRunBytes)
	for {
		now := time.Now()
		p.mu.Lock()
		for _, f := range due {
			if len(p.free) < keepBuffers {
				p.free = append(p.free, f.b)
			}
		}
		clear(due)
		due = due[:0]
		for len(p.flying) > 0 && !p.flying[0].at.After(now) {
			due = append(due, p.flying.pop())
		}
		p.line.counts.Delivered += uint64(len(due))
		wait := time.Hour
		if len(p.flying) > 0 {
			wait = p.flying[0].at.Sub(now)
		}
		p.asleep = time.Time{}
		if len(due) == 0 {
			p.asleep = now.Add(wait)
		}
		p.mu.Unlock()
		for rest := due; len(rest) > 0; {
			n := sameRun(rest)
			if h := p.net.handler(rest[0].to); h != nil {
				run = run[:0]
				for _, f := range rest[:n] {
					run = append(run, f.b...)
				}
				h(run, len(rest[0].b), rest[0].from)
			}
			rest = rest[n:]
		}
		if len(due) > 0 {
			select {
			case <-p.done:
				return
			default:
				continue
			}
		}
		t.Reset(wait)
		select {
		case <-t.C:
		case <-p.wake:
		case <-p.done:
			return
		}
	}
}

// sameRun returns how many of the first datagrams a handler gets at once: of one size, from and to the
// same addresses; the last may be shorter.
func sameRun(f []flight) int {
	size, n, total := len(f[0].b), 1, len(f[0].b)
	for n < len(f) && n < mostRun && f[n].from == f[0].from && f[n].to == f[0].to &&
		len(f[n].b) <= size && len(f[n].b) > 0 && len(f[n-1].b) == size && total+len(f[n].b) <= mostRunBytes {
		total += len(f[n].b)
		n++
	}
	return n
}

// A flight is a datagram behind the bottleneck.
type flight struct {
	at       time.Time
	seq      uint64 // in the order of sending, for those that arrive together
	b        []byte
	from, to netip.AddrPort
}

func (f *flight) before(g *flight) bool {
	return f.at.Before(g.at) || f.at.Equal(g.at) && f.seq < g.seq
}

// flights is a heap, the next to arrive first. container/heap would allocate for each.
type flights []flight

func (h *flights) push(f flight) {
	s := append(*h, f)
	i := len(s) - 1
	for i > 0 && f.before(&s[(i-1)/2]) {
		s[i] = s[(i-1)/2]
		i = (i - 1) / 2
	}
	s[i] = f
	*h = s
}

func (h *flights) pop() flight {
	s := *h
	first, f := s[0], s[len(s)-1]
	s[len(s)-1] = flight{}
	s = s[:len(s)-1]
	*h = s
	for i := 0; len(s) > 0; {
		c := 2*i + 1
		if c+1 < len(s) && s[c+1].before(&s[c]) {
			c++
		}
		if c >= len(s) || !s[c].before(&f) {
			s[i] = f
			break
		}
		s[i] = s[c]
		i = c
	}
	return first
}
