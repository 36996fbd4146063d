package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"adit/tunnel"
)

const (
	// DefaultDuration is what a phase with data takes.
	DefaultDuration = 5 * time.Second

	// IdleDuration is what the idle phase takes, unless the others are shorter.
	IdleDuration = 2 * time.Second

	// SampleInterval is the time between two samples.
	SampleInterval = 100 * time.Millisecond

	echoInterval  = 20 * time.Millisecond
	pauseDuration = 200 * time.Millisecond // between phases
)

// The phases of a measurement, in their order.
const (
	Idle = "idle" // round trips alone
	Down = "down" // data to this side, round trips beside
	Up   = "up"   // data to the peer, round trips beside
)

// Config says how to measure. The zero value works.
type Config struct {
	Duration time.Duration   // of each phase with data, at most MaxDuration; 0 is DefaultDuration
	Parallel int             // streams that carry data, at most MaxParallel; 0 is 1
	Counters func() Counters // of this side's half of the link; nil reports none
	OnSample func(Sample)    // called ten times a second; it must not block for long
}

// A Sample is what goes on at one moment of a phase.
type Sample struct {
	Phase string
	At    time.Duration // since the phase began
	Bits  float64       // a second, since the last sample; 0 while idle
	RTT   time.Duration // the last that came back; 0 before the first
}

// A Phase is what one phase found.
type Phase struct {
	Name    string
	Elapsed time.Duration // from the first byte to the last
	Bytes   uint64        // that the receiver read
	Bits    float64       // a second; 0 while idle
	RTT     Distribution  // of 64 bytes there and back over a stream of their own

	// Packets of the side that sends the data; of both while idle.
	Sent, Lost, Resent uint64
}

// A Result is what the phases that came to their end found.
type Result struct {
	Phases          []Phase
	PacketBytes     int // the largest payload of a packet to the peer
	PeerPacketBytes int // and of one from there
}

// Run measures the path of s, whose peer serves measuring streams. It takes two seconds and twice
// cfg.Duration, and a few round trips. It returns what it has found also with an error: a
// *tunnel.RefusedError if the peer does not allow it, the cause of ctx, or how the session failed.
func Run(ctx context.Context, s tunnel.Session, cfg Config) (Result, error) {
	if cfg.Duration == 0 {
		cfg.Duration = DefaultDuration
	}
	cfg.Parallel = max(cfg.Parallel, 1)
	if cfg.Duration < time.Millisecond || cfg.Duration > MaxDuration || cfg.Parallel > MaxParallel {
		return Result{}, fmt.Errorf("measure for %v with %d streams: %w", cfg.Duration, cfg.Parallel, ErrRequest)
	}
	if cfg.Counters == nil {
		cfg.Counters = func() Counters { return Counters{} }
	}
	if cfg.OnSample == nil {
		cfg.OnSample = func(Sample) {}
	}
	var result Result
	for i, name := range []string{Idle, Down, Up} {
		if i > 0 {
			if err := pause(ctx); err != nil {
				return result, err
			}
		}
		p := &phase{cfg: cfg, session: s, name: name, duration: cfg.Duration}
		if name == Idle {
			p.duration = min(p.duration, IdleDuration)
		}
		found, err := p.run(ctx)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return result, err
		}
		result.Phases = append(result.Phases, found)
		result.PacketBytes, result.PeerPacketBytes = cfg.Counters().PacketBytes, p.echo.last().link.PacketBytes
	}
	return result, nil
}

// pause lets what is left of one phase drain before the next.
func pause(ctx context.Context) error {
	t := time.NewTimer(pauseDuration)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A phase is one under way.
type phase struct {
	cfg      Config
	session  tunnel.Session
	name     string
	duration time.Duration

	start  time.Time
	echo   *echoes
	bytes  atomic.Uint64 // that came
	first  atomic.Int64  // when the first and the last did, in nanoseconds since start; 0 is never
	latest atomic.Int64
	wg     sync.WaitGroup
}

func (p *phase) run(ctx context.Context) (Phase, error) {
	// Whatever happens, no stream and no goroutine outlives the phase.
	defer p.wg.Wait()
	var opened []tunnel.Stream
	var stops []func() bool
	defer func() {
		for _, stop := range stops {
			stop()
		}
		for _, st := range opened {
			_ = st.Reset(tunnel.CodeCanceled) // what is on its way is of no use
		}
	}()
	open := func(m mode, d time.Duration) (tunnel.Stream, error) {
		r := request{mode: m, duration: min(d, MaxDuration), bytes: m.limit()}
		st, err := tunnel.OpenBench(ctx, p.session, r.encode())
		if err != nil {
			return nil, err
		}
		opened = append(opened, st)
		stops = append(stops, context.AfterFunc(ctx, func() { _ = st.Reset(tunnel.CodeCanceled) })) // a Write may block
		return st, nil
	}

	st, err := open(echo, p.duration+grace)
	if err != nil {
		return Phase{}, err
	}
	if err := st.WaitAccepted(ctx); err != nil {
		return Phase{}, err
	}
	p.start = time.Now()
	p.echo = newEchoes(st)
	failed := make(chan error, 1+p.cfg.Parallel) // one result each
	p.wg.Go(func() { failed <- p.echo.read() })
	if err := p.echo.begin(ctx, failed); err != nil {
		return Phase{}, err
	}
	mine, theirs := p.cfg.Counters(), p.echo.last()
	carry, m := p.receive, source
	if p.name == Up {
		carry, m = p.send, sink
	}
	for range p.cfg.Parallel {
		if p.name == Idle {
			break
		}
		st, err := open(m, p.duration)
		if err != nil {
			return Phase{}, err
		}
		p.wg.Go(func() {
			err := st.WaitAccepted(ctx)
			if err == nil {
				err = carry(st)
			}
			if err != nil {
				failed <- err
			}
		})
	}
	if err := p.watch(ctx, failed); err != nil {
		return Phase{}, err
	}
	return p.found(mine, theirs), nil
}

// send writes to a sink until the time is over.
func (p *phase) send(st tunnel.Stream) error {
	_ = st.SetWriteDeadline(time.Now().Add(p.duration)) // a stream that failed says so at once
	if err := fill(st, sink.limit()); err != nil && !late(err) {
		return err
	}
	return nil
}

// receive reads from a source until it ends.
func (p *phase) receive(st tunnel.Stream) error {
	buf := buffers.Get().(*[bufferBytes]byte)
	defer buffers.Put(buf)
	for {
		n, err := st.Read(buf[:])
		if n > 0 {
			at := max(int64(time.Since(p.start)), 1)
			p.first.CompareAndSwap(0, at)
			p.latest.Store(at)
			p.bytes.Add(uint64(n))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// late reports whether err says that a deadline has passed.
func late(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// watch sends messages and takes samples until the time is over and the last message was answered.
func (p *phase) watch(ctx context.Context, failed <-chan error) error {
	t := time.NewTicker(echoInterval)
	defer t.Stop()
	began := time.Now()
	end := time.NewTimer(p.duration)
	defer end.Stop()
	before := p.progress()
	for sampled := began; ; {
		select {
		case <-t.C:
			if err := p.echo.send(); err != nil {
				return err
			}
			now := time.Now()
			if now.Sub(sampled) < SampleInterval {
				continue
			}
			sampled = sampled.Add(now.Sub(sampled).Truncate(SampleInterval))
			after := p.progress()
			p.cfg.OnSample(Sample{Phase: p.name, At: now.Sub(began), Bits: rate(before, after), RTT: p.echo.rtt()})
			if after.at > before.at {
				before = after
			}
		case <-end.C:
			if err := p.echo.ask(ctx, failed, grace); ctx.Err() != nil {
				return err
			}
			return nil // whatever else happens now, the time was measured
		case err := <-failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// A progress is how much data had come at a time, on the clock of the side where it came.
type progress struct {
	at    time.Duration
	bytes uint64
}

func (p *phase) progress() progress {
	switch p.name {
	case Down:
		return progress{time.Since(p.start), p.bytes.Load()}
	case Up:
		r := p.echo.last()
		return progress{r.clock, r.sunk}
	}
	return progress{}
}

func rate(from, to progress) float64 {
	if to.at <= from.at || to.bytes < from.bytes { // nothing new, or a peer that lies
		return 0
	}
	return 8 * float64(to.bytes-from.bytes) / (to.at - from.at).Seconds()
}

// found sums up. mine and theirs are from when the phase began.
func (p *phase) found(mine Counters, theirs report) Phase {
	f := Phase{Name: p.name, RTT: Summarize(p.echo.times())}
	var from, to progress
	switch p.name {
	case Down:
		from = progress{at: time.Duration(p.first.Load())}
		to = progress{time.Duration(p.latest.Load()), p.bytes.Load()}
	case Up:
		from, to = p.echo.sunk()
	}
	if to.at > from.at && to.bytes > from.bytes {
		f.Elapsed, f.Bytes, f.Bits = to.at-from.at, to.bytes-from.bytes, rate(from, to)
	}
	if p.name != Down {
		f.add(mine, p.cfg.Counters())
	}
	if p.name != Up {
		f.add(theirs.link, p.echo.last().link)
	}
	return f
}

// add adds what a side counted between two moments. A peer may report anything.
func (f *Phase) add(from, to Counters) {
	since := func(a, b uint64) uint64 {
		if b < a {
			return 0
		}
		return b - a
	}
	lost, late := since(from.Lost, to.Lost), since(from.Spurious, to.Spurious)
	f.Sent += since(from.Sent, to.Sent)
	f.Lost += since(late, lost)
	f.Resent += since(from.Resent, to.Resent)
}
