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

	// earlyBytes is how much of a flow travels in its stream, until the peer has accepted it.
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
	answered       atomic.Int64 // the same, of the first datagram that came in
	sent, received atomic.Int64 // bytes from this side's socket, and to it
	talked, heard  atomic.Bool  // a datagram went out, came in
}

func (s *silence) out(n int) { s.mark(&s.talked, &s.sent, n) }

func (s *silence) in(n int) {
	if !s.heard.Load() {
		s.answered.Store(int64(time.Since(s.began)))
	}
	s.mark(&s.heard, &s.received, n)
}

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

// watch calls end when the flow has been silent for too long by more than slack, unless stop was called before.
func (s *silence) watch(slack time.Duration, end func()) (stop func()) {
	var mu sync.Mutex
	var t *time.Timer
	stopped := false
	mu.Lock()
	defer mu.Unlock()
	t = time.AfterFunc(s.left()+slack, func() {
		mu.Lock()
		defer mu.Unlock()
		switch left := s.left() + slack; {
		case stopped:
		case left <= 0:
			end()
		default:
			t.Reset(left)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		t.Stop()
	}
}

// A flow is what this side opened for the datagrams of one source to one target.
type flow struct {
	silence
	header  []byte
	event   StreamEvent
	deliver func(p []byte) // takes a datagram of the peer, one at a time; it must not keep it
	stop    context.CancelFunc
	session Session
	budget  *FlowBudget
	evicted atomic.Bool // it makes room for others
	over    atomic.Bool // it was refused or has failed

	held int // bytes of datagrams that wait; guarded by budget.mu

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
	if n := 2 + len(p); n <= f.room && len(p) <= maxDatagram && f.budget.hold(f, n) {
		f.room -= n
		f.early = append(binary.BigEndian.AppendUint16(f.early, uint16(len(p))), p...)
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// state is what the flow would be judged by now.
func (f *flow) state(now time.Time) flowState {
	last := time.Duration(f.last.Load())
	age := now.Sub(f.began)
	return flowState{
		over: f.over.Load(), heard: f.heard.Load(), age: age,
		idle: age - last, talking: last - time.Duration(f.answered.Load()),
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
func (f *flow) run(ctx context.Context, opts *Options) {
	err := f.serve(ctx, opts)
	if ctx.Err() != nil {
		err = nil // this side ends it
	}
	opts.stream(ended(f.event, f.sent.Load(), f.received.Load(), err))
	if err != nil {
		f.over.Store(true)
		sleep(ctx, refusedFor)
	}
}

func (f *flow) serve(ctx context.Context, opts *Options) error {
	st, err := f.session.Open(ctx, f.header)
	if err != nil {
		return err
	}
	ds, ok := st.(DatagramStream)
	if !ok {
		_ = st.Reset(CodeCanceled) // nobody needs it
		return errNoDatagrams
	}
	defer ds.Close()
	defer context.AfterFunc(ctx, func() { _ = ds.Close() })() // unblocks what waits below
	ds.AcceptDatagrams()
	if err := f.begin(ctx, ds); err != nil {
		return err
	}
	open := f.event
	open.State = StateOpen
	opts.stream(open)
	var silent atomic.Bool
	defer f.watch(0, func() {
		silent.Store(true)
		_ = ds.Close()
	})()
	var wg sync.WaitGroup
	wg.Go(func() {
		use := func(p []byte) {
			f.in(len(p))
			f.deliver(p)
		}
		for ds.NextDatagram(use) == nil {
		}
	})
	err = readEnd(ds)
	_ = ds.Close() // ends the one above
	wg.Wait()
	if silent.Load() || ctx.Err() != nil {
		return nil
	}
	return err
}

// begin sends what comes by the stream until the peer has accepted it, and leaves f.direct set.
func (f *flow) begin(ctx context.Context, ds DatagramStream) error {
	accepted := make(chan error, 1) // one result
	go func() { accepted <- ds.WaitAccepted(ctx) }()
	for {
		select {
		case <-f.wake:
			err := f.flush(ds, nil)
			if err == nil {
				continue
			}
			if why := <-accepted; why != nil {
				return why // says more than a write that fails
			}
			return err
		case err := <-accepted:
			if err == nil {
				err = f.flush(ds, ds)
			}
			f.budget.release(f)
			return err
		}
	}
}

// readEnd reads r, from which nothing comes but the end, and returns why it ended unless that is a proper end.
func readEnd(r io.Reader) error {
	var b [64]byte
	for {
		if _, err := r.Read(b[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}
