package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// A flow ends when it was silent for so long: the second once there were datagrams both ways, as
	// RFC 4787 section 4.3 has it for NATs.
	flowIdle     = time.Minute
	flowIdleBoth = 5 * time.Minute

	// serveSlack is how much longer the serving side waits: the end is the opener's to tell.
	serveSlack = 15 * time.Second

	// refusedFor is how long a source whose flow was refused is not asked for again.
	refusedFor = 5 * time.Second

	// maxFlows is how many flows a listener has at once. One more ends that which was silent the longest.
	maxFlows = 256

	// earlyBytes is how much of a flow travels in its stream, until the peer has accepted it. It is less
	// than a stream's first credit, so that no write blocks.
	earlyBytes = 128 << 10

	maxDatagram = 65535 - 8
)

// A DatagramStream is a stream that has datagrams beside it: sent once, in no order, and ending with it.
// Streams of package reliable are.
type DatagramStream interface {
	Stream

	// AcceptDatagrams lets datagrams in; before, they are dropped.
	AcceptDatagrams()

	// SendDatagram sends p, of at most 65,527 bytes, once. It never blocks; false says that it was dropped.
	SendDatagram(p []byte) bool

	// NextDatagram waits for the next datagram and hands it to use, which must not keep it. It returns why
	// there will be none.
	NextDatagram(use func(p []byte)) error
}

// errNoDatagrams is the end of a flow whose session has streams only.
var errNoDatagrams = &RefusedError{CodeUsage, "this session carries no datagrams"}

// silence measures how long a flow has been idle.
type silence struct {
	began          time.Time
	last           atomic.Int64 // time.Duration since began
	sent, received atomic.Int64 // bytes from this side's socket, and to it
	talked, heard  atomic.Bool  // a datagram went out, came in
}

func (s *silence) out(n int) { s.mark(&s.talked, &s.sent, n) }
func (s *silence) in(n int)  { s.mark(&s.heard, &s.received, n) }

func (s *silence) mark(b *atomic.Bool, total *atomic.Int64, n int) {
	total.Add(int64(n))
	if !b.Load() {
		b.Store(true)
	}
	s.last.Store(int64(time.Since(s.began)))
}

// left is how long the flow may go on being silent.
func (s *silence) left() time.Duration {
	limit := flowIdle
	if s.talked.Load() && s.heard.Load() {
		limit = flowIdleBoth
	}
	return limit - (time.Since(s.began) - time.Duration(s.last.Load()))
}

// wait returns when the flow has been silent for too long by more than slack, or ctx is done.
func (s *silence) wait(ctx context.Context, slack time.Duration) {
	t := time.NewTimer(s.left() + slack)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		left := s.left() + slack
		if left <= 0 {
			return
		}
		t.Reset(left)
	}
}

// A flow is what this side opened for the datagrams of one source to one target.
type flow struct {
	silence
	header  []byte
	event   StreamEvent
	deliver func(p []byte) // takes a datagram of the peer, one at a time; it must not keep it
	stop    context.CancelFunc

	mu     sync.Mutex
	direct DatagramStream // nil until the peer has accepted the flow
	early  []byte         // frames that were not written yet
	room   int            // of earlyBytes
	wake   chan struct{}  // capacity 1: early has something
}

// send sends a datagram, or drops it. The first ones go through the stream: who asks one question must
// not wait for an answer to the stream, nor lose it because it overtook the stream.
func (f *flow) send(p []byte) {
	f.out(len(p))
	f.mu.Lock()
	if st := f.direct; st != nil {
		f.mu.Unlock()
		st.SendDatagram(p) // a loss if it does not
		return
	}
	if n := 2 + len(p); n <= f.room && len(p) <= maxDatagram {
		f.room -= n
		f.early = append(binary.BigEndian.AppendUint16(f.early, uint16(len(p))), p...)
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// flush writes what send has left to be written, as its last act if st is given.
func (f *flow) flush(w io.Writer, st DatagramStream) error {
	f.mu.Lock()
	b := f.early
	f.early, f.direct = nil, st
	f.mu.Unlock()
	if len(b) == 0 {
		return nil
	}
	_, err := w.Write(b)
	return err
}

// run opens the flow and serves it until it is silent, refused, ended by the peer, or ctx is done.
func (f *flow) run(ctx context.Context, s Session, opts *Options) {
	err := f.serve(ctx, s, opts)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil
	}
	opts.stream(ended(f.event, f.sent.Load(), f.received.Load(), err))
	if err != nil {
		t := time.NewTimer(refusedFor)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
}

func (f *flow) serve(ctx context.Context, s Session, opts *Options) error {
	st, err := s.Open(ctx, f.header)
	if err != nil {
		return err
	}
	ds, ok := st.(DatagramStream)
	if !ok {
		_ = st.Reset(CodeCanceled) // nobody needs it
		return errNoDatagrams
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer ds.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ds.AcceptDatagrams()
	accepted := make(chan error, 1) // one result
	wg.Go(func() { accepted <- ds.WaitAccepted(ctx) })
	for waiting := true; waiting; {
		select {
		case <-f.wake:
			err = f.flush(ds, nil)
		case err = <-accepted:
			waiting = false
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err != nil {
			var refused *RefusedError
			if waiting && !errors.As(err, &refused) {
				err = <-accepted // says more than a write that fails
			}
			return err
		}
	}
	open := f.event
	open.State = StateOpen
	opts.stream(open)
	if err := f.flush(ds, ds); err != nil {
		return err
	}
	var end error // why the peer's side ended; written before stop
	wg.Go(func() {
		defer stop()
		_, end = copyBytes(io.Discard, ds) // nothing comes but the end
	})
	wg.Go(func() {
		use := func(p []byte) {
			f.in(len(p))
			f.deliver(p)
		}
		for ds.NextDatagram(use) == nil {
		}
	})
	f.wait(ctx, 0)
	closing := ctx.Err() == nil // by silence, here
	stop()
	_ = ds.Close() // ends the two above
	wg.Wait()
	if closing {
		return nil
	}
	return end
}

// flows are the flows of one listener, by their sources, or what else tells them apart.
type flows[K comparable] struct {
	ctx     context.Context // ends them
	session Session
	opts    *Options
	most    int
	wg      sync.WaitGroup

	mu sync.Mutex
	m  map[K]*flow
}

func newFlows[K comparable](ctx context.Context, s Session, opts *Options, most int) *flows[K] {
	return &flows[K]{ctx: ctx, session: s, opts: opts, most: most, m: make(map[K]*flow)}
}

// get returns the flow of k, or nil.
func (t *flows[K]) get(k K) *flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m[k]
}

// open begins the flow of k, which has none. If there are too many, that which was silent for longest ends.
// Only one goroutine may call it.
func (t *flows[K]) open(k K, h header, e StreamEvent, deliver func(p []byte)) *flow {
	ctx, stop := context.WithCancel(t.ctx)
	f := &flow{
		silence: silence{began: time.Now()}, header: h.encode(), event: e, deliver: deliver, stop: stop,
		room: earlyBytes, wake: make(chan struct{}, 1),
	}
	t.mu.Lock()
	if len(t.m) >= t.most {
		t.evictLocked()
	}
	t.m[k] = f
	t.mu.Unlock()
	t.wg.Go(func() {
		defer stop()
		f.run(ctx, t.session, t.opts)
		t.mu.Lock()
		if t.m[k] == f {
			delete(t.m, k)
		}
		t.mu.Unlock()
	})
	return f
}

func (t *flows[K]) evictLocked() {
	var oldest K
	var victim *flow
	var at time.Time
	for k, f := range t.m {
		if last := f.began.Add(time.Duration(f.last.Load())); victim == nil || last.Before(at) {
			oldest, victim, at = k, f, last
		}
	}
	if victim != nil {
		delete(t.m, oldest)
		victim.stop()
	}
}
