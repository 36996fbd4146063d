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

// A half is one direction of a fake stream: a bounded buffer, then its end, proper if err is nil.
type half struct {
	mu      sync.Mutex
	cond    *sync.Cond
	buf     []byte
	ended   bool
	err     error
	stopped chan struct{} // closed when nothing can be written
	failed  chan struct{} // closed when reads will fail
}

const halfBytes = 256 << 10

func newHalf() *half {
	h := &half{stopped: make(chan struct{}), failed: make(chan struct{})}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.buf) == 0 && !h.ended {
		h.cond.Wait()
	}
	switch {
	case len(h.buf) == 0 && h.err != nil:
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
		for len(h.buf) >= halfBytes && !h.ended {
			h.cond.Wait()
		}
		if h.ended {
			return n, h.failureLocked()
		}
		m := min(len(b)-n, halfBytes-len(h.buf))
		h.buf = append(h.buf, b[n:n+m]...)
		n += m
		h.cond.Broadcast()
	}
	return n, nil
}

func (h *half) await() (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.buf) >= halfBytes && !h.ended {
		h.cond.Wait()
	}
	if h.ended {
		return 0, h.failureLocked()
	}
	return halfBytes - len(h.buf), nil
}

// end ends the direction after what is in it.
func (h *half) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ended {
		h.ended, h.err = true, err
		close(h.stopped)
		if err != nil {
			close(h.failed)
		}
	}
	h.cond.Broadcast()
}

// stop ends the direction at once.
func (h *half) stop(err error) {
	h.end(err)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf = nil
}

func (h *half) unread() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(len(h.buf))
}

// failureLocked is why nothing can be written.
func (h *half) failureLocked() error {
	if h.err == nil {
		return net.ErrClosed
	}
	return h.err
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
}

func (s *fakeStream) Read(b []byte) (int, error)  { return s.in.read(b) }
func (s *fakeStream) Write(b []byte) (int, error) { return s.out.write(b) }
func (s *fakeStream) CloseWrite() error           { s.out.end(nil); return nil }
func (s *fakeStream) Header() []byte              { return s.header }
func (s *fakeStream) AwaitWrite() (int, error)    { return s.out.await() }
func (s *fakeStream) ResetWrite(uint32)           { s.out.end(errFakeReset) }
func (s *fakeStream) StopRead(uint32)             { s.in.stop(errFakeReset) }
func (s *fakeStream) Stopped() <-chan struct{}    { return s.out.stopped }
func (s *fakeStream) Done() <-chan struct{}       { return s.in.failed }
func (s *fakeStream) Unread() int64               { return s.in.unread() }

func (s *fakeStream) CopyTo(w io.Writer) (n int64, readErr, writeErr error) {
	b := make([]byte, 4096)
	for {
		m, err := s.in.read(b)
		if m > 0 {
			m, werr := w.Write(b[:m])
			if n += int64(m); werr != nil {
				return n, nil, werr
			}
		}
		if err == io.EOF {
			return n, nil, nil
		}
		if err != nil {
			return n, err, nil
		}
	}
}

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
	s.in.end(err)
	s.out.end(err)
}

func (s *fakeStream) Reset(uint32) error { s.fail(errFakeReset); return nil }

// Close ends what is not ended: data that was written still arrives, nobody reads the rest.
func (s *fakeStream) Close() error { s.out.end(nil); s.in.stop(errFakeReset); return nil }

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
	v := &verdict{done: make(chan struct{})}
	mine := &fakeStream{session: s, in: x, out: y, header: header, verdict: v}
	theirs := &fakeStream{session: s.peer, in: y, out: x, header: header, verdict: v}
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
