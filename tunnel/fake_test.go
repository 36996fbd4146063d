package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"adit/internal/leaktest"
)

// The scheduler of kcp-go, below reliable, starts with the program and never ends.
func TestMain(m *testing.M) { leaktest.Main(m, "kcp-go/v5.NewTimedSched") }

var errFakeReset = errors.New("stream reset")

// A half is one direction of a fake stream: a bounded buffer, its end, or its failure.
type half struct {
	mu   sync.Mutex
	cond *sync.Cond
	buf  []byte
	eof  bool
	err  error
}

const halfBytes = 256 << 10

func newHalf() *half {
	h := &half{}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.buf) == 0 && !h.eof && h.err == nil {
		h.cond.Wait()
	}
	switch {
	case h.err != nil:
		return 0, h.err
	case len(h.buf) == 0:
		return 0, io.EOF
	}
	n := copy(b, h.buf)
	h.buf = h.buf[n:]
	h.cond.Broadcast()
	return n, nil
}

func (h *half) write(b []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n < len(b) {
		for len(h.buf) >= halfBytes && h.err == nil && !h.eof {
			h.cond.Wait()
		}
		if h.err != nil {
			return n, h.err
		}
		if h.eof {
			return n, net.ErrClosed
		}
		m := min(len(b)-n, halfBytes-len(h.buf))
		h.buf = append(h.buf, b[n:n+m]...)
		n += m
		h.cond.Broadcast()
	}
	return n, nil
}

func (h *half) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.eof = true
	} else if h.err == nil {
		h.err = err
	}
	h.cond.Broadcast()
}

func (h *half) failure() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// A verdict is what became of an opened stream; done is closed when it is known.
type verdict struct {
	once sync.Once
	done chan struct{}
	err  error
}

func (v *verdict) give(err error) { v.once.Do(func() { v.err = err; close(v.done) }) }

type fakeStream struct {
	session *fakeSession
	in, out *half
	header  []byte
	verdict *verdict
	failed  *verdict
}

func (s *fakeStream) Read(b []byte) (int, error)  { return s.in.read(b) }
func (s *fakeStream) Write(b []byte) (int, error) { return s.out.write(b) }
func (s *fakeStream) CloseWrite() error           { s.out.end(nil); return nil }
func (s *fakeStream) Header() []byte              { return s.header }
func (s *fakeStream) Accept() error {
	s.verdict.give(nil)
	return s.verdict.err
}

func (s *fakeStream) Refuse(code uint32, reason string) error {
	err := &RefusedError{code, reason}
	s.verdict.give(err)
	s.fail(err)
	return nil
}

func (s *fakeStream) WaitAccepted(ctx context.Context) error {
	select {
	case <-s.verdict.done:
		return s.verdict.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *fakeStream) fail(err error) {
	s.verdict.give(err)
	s.failed.give(err)
	s.in.end(err)
	s.out.end(err)
}

func (s *fakeStream) Done() <-chan struct{} { return s.failed.done }

func (s *fakeStream) Reset(uint32) error { s.fail(errFakeReset); return nil }

// Close ends what is not ended: data that was written still arrives, nobody reads the rest.
func (s *fakeStream) Close() error { s.out.end(nil); return nil }

func (s *fakeStream) LocalAddr() net.Addr              { return &net.UDPAddr{} }
func (s *fakeStream) RemoteAddr() net.Addr             { return &net.UDPAddr{} }
func (s *fakeStream) SetDeadline(time.Time) error      { return nil }
func (s *fakeStream) SetReadDeadline(time.Time) error  { return nil }
func (s *fakeStream) SetWriteDeadline(time.Time) error { return nil }

// A fakeSession is one end of a session in memory.
type fakeSession struct {
	peer   *fakeSession
	queue  chan *fakeStream
	shared *fakeShared
}

type fakeShared struct {
	mu      sync.Mutex
	streams []*fakeStream
	done    chan struct{}
	once    sync.Once
}

// newSessions returns the two ends. They are closed with the test.
func newSessions(t testing.TB) (a, b *fakeSession) {
	shared := &fakeShared{done: make(chan struct{})}
	a = &fakeSession{queue: make(chan *fakeStream, 16), shared: shared}
	b = &fakeSession{queue: make(chan *fakeStream, 16), shared: shared, peer: a}
	a.peer = b
	t.Cleanup(a.Close)
	return a, b
}

// Close fails all streams on both ends.
func (s *fakeSession) Close() {
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	s.shared.once.Do(func() { close(s.shared.done) })
	for _, st := range s.shared.streams {
		st.fail(net.ErrClosed)
	}
}

func (s *fakeSession) Open(ctx context.Context, header []byte) (Stream, error) {
	x, y := newHalf(), newHalf()
	v, failed := &verdict{done: make(chan struct{})}, &verdict{done: make(chan struct{})}
	mine := &fakeStream{session: s, in: x, out: y, header: header, verdict: v, failed: failed}
	theirs := &fakeStream{session: s.peer, in: y, out: x, header: header, verdict: v, failed: failed}
	s.shared.mu.Lock()
	select {
	case <-s.shared.done:
		mine.fail(net.ErrClosed)
	default:
		s.shared.streams = append(s.shared.streams, mine)
	}
	s.shared.mu.Unlock()
	if err := mine.out.failure(); err != nil {
		return nil, err
	}
	select {
	case s.peer.queue <- theirs:
		return mine, nil
	case <-s.shared.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *fakeSession) Accept(ctx context.Context) (Stream, error) {
	select {
	case st := <-s.queue:
		return st, nil
	case <-s.shared.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
