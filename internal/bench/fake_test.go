package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"adit/tunnel"
)

var errReset = errors.New("stream reset")

// A lane is one direction of a fake session: its rate and delay hold for all streams together.
type lane struct {
	rate  float64 // bytes a second
	delay time.Duration

	mu   sync.Mutex
	free time.Time // when what was written so far has left
}

// take returns when n bytes arrive, and how long the writer waits.
func (l *lane) take(n int) (arrive time.Time, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(n) / l.rate * 1e9))
	return l.free.Add(l.delay), l.free.Sub(now)
}

type chunk struct {
	at time.Time
	b  []byte // nil is the end
}

// A fakeStream is one end of a stream over two lanes.
type fakeStream struct {
	net.Conn // nil: what is not below is not used
	header   []byte
	out      *lane
	in, to   chan chunk
	rest     []byte
	ended    bool
	write    time.Time // deadlines
	read     time.Time
	shared   *fakeVerdict
	ctx      context.Context
	fail     context.CancelCauseFunc
}

type fakeVerdict struct {
	once sync.Once
	done chan struct{}
	err  error
}

func (v *fakeVerdict) give(err error) error {
	v.once.Do(func() { v.err = err; close(v.done) })
	return nil
}

func (s *fakeStream) Write(b []byte) (n int, err error) {
	const piece = 1200
	for n < len(b) {
		if !s.write.IsZero() && !time.Now().Before(s.write) {
			return n, os.ErrDeadlineExceeded
		}
		m := min(piece, len(b)-n)
		at, wait := s.out.take(m)
		select {
		case s.to <- chunk{at, append([]byte{}, b[n:n+m]...)}:
		case <-s.ctx.Done():
			return n, errReset
		}
		n += m
		select {
		case <-time.After(wait):
		case <-s.ctx.Done():
			return n, errReset
		}
	}
	return n, nil
}

func (s *fakeStream) Read(b []byte) (int, error) {
	if s.ended {
		return 0, io.EOF
	}
	if len(s.rest) == 0 {
		var late <-chan time.Time
		if !s.read.IsZero() {
			late = time.After(time.Until(s.read))
		}
		select {
		case c := <-s.in:
			select {
			case <-time.After(time.Until(c.at)):
			case <-s.ctx.Done():
				return 0, errReset
			}
			if c.b == nil {
				s.ended = true
				return 0, io.EOF
			}
			s.rest = c.b
		case <-late:
			return 0, os.ErrDeadlineExceeded
		case <-s.ctx.Done():
			return 0, errReset
		}
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *fakeStream) CloseWrite() error {
	at, _ := s.out.take(0)
	select {
	case s.to <- chunk{at, nil}:
		return nil
	case <-s.ctx.Done():
		return errReset
	}
}

func (s *fakeStream) Close() error                       { return s.CloseWrite() }
func (s *fakeStream) Header() []byte                     { return s.header }
func (s *fakeStream) Accept() error                      { return s.shared.give(nil) }
func (s *fakeStream) Reset(uint32) error                 { s.fail(errReset); return nil }
func (s *fakeStream) Done() <-chan struct{}              { return s.ctx.Done() }
func (s *fakeStream) SetWriteDeadline(t time.Time) error { s.write = t; return nil }
func (s *fakeStream) SetReadDeadline(t time.Time) error  { s.read = t; return nil }
func (s *fakeStream) SetDeadline(t time.Time) error      { s.read, s.write = t, t; return nil }

func (s *fakeStream) Refuse(code uint32, reason string) error {
	return s.shared.give(&tunnel.RefusedError{Code: code, Reason: reason})
}

func (s *fakeStream) WaitAccepted(ctx context.Context) error {
	select {
	case <-s.shared.done:
		return s.shared.err
	case <-s.ctx.Done():
		return errReset
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A fakeSession opens streams to a peer that accepts them.
type fakeSession struct {
	there, back *lane
	accepts     chan *fakeStream
}

func (s *fakeSession) Open(_ context.Context, header []byte) (tunnel.Stream, error) {
	a, b := make(chan chunk, 1<<16), make(chan chunk, 1<<16)
	v := &fakeVerdict{done: make(chan struct{})}
	ctx, fail := context.WithCancelCause(context.Background())
	s.accepts <- &fakeStream{header: header, out: s.back, in: a, to: b, shared: v, ctx: ctx, fail: fail}
	return &fakeStream{out: s.there, in: b, to: a, shared: v, ctx: ctx, fail: fail}, nil
}

func (s *fakeSession) Accept(ctx context.Context) (tunnel.Stream, error) {
	select {
	case st := <-s.accepts:
		return st, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// newFake returns a session whose peer serves with p.
func newFake(t *testing.T, there, back *lane, p tunnel.Offer) *fakeSession {
	s := &fakeSession{there: there, back: back, accepts: make(chan *fakeStream, 16)}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = tunnel.Serve(ctx, s, p, tunnel.Options{}) // ends with ctx
	}()
	t.Cleanup(func() {
		stop()
		<-served
	})
	return s
}
