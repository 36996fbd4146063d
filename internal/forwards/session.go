package forwards

import (
	"context"
	"errors"
	"sync"
	"time"

	"adit/internal/fail"
	"adit/tunnel"
)

// endWait is how long an error of a stream waits for the end of its session, which may be the reason.
const endWait = 500 * time.Millisecond

// Wait blocks until the session ends or ctx does, and returns why.
func Wait(ctx context.Context, s interface{ Wait() error }) error {
	ended := make(chan error, 1) // the one result of Wait
	go func() { ended <- s.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Ended returns why a single stream of s failed with err: the end of the session where that is the
// reason, because it says more.
func Ended(ctx context.Context, s interface{ Wait() error }, err error) error {
	var refused *tunnel.RefusedError
	var local *tunnel.LocalError
	switch {
	case err == nil, errors.As(err, &refused), errors.As(err, &local):
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	limit, cancel := context.WithTimeoutCause(ctx, endWait, err)
	defer cancel()
	if ended := Wait(limit, s); ended != nil {
		return ended
	}
	return &fail.Failure{Code: fail.Gone, Message: "the other side ended the session before the data did", Hint: "see what it says there"}
}

// A Later is a session that is not there yet, or not any more and soon again. Listeners can be opened on
// it before the peer is met, so that a port in use does not cost a code; their first connections wait.
type Later struct {
	mu    sync.Mutex
	ready chan struct{}  // closed while there is a session
	now   tunnel.Session // nil while there is none
}

func newLater() *Later { return &Later{ready: make(chan struct{})} }

// set makes s the session, also in the place of another.
func (l *Later) set(s tunnel.Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == nil {
		close(l.ready)
	}
	l.now = s
}

// gone says that there is no session for the time being.
func (l *Later) gone() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now != nil {
		l.now, l.ready = nil, make(chan struct{})
	}
}

// get waits until there is a session.
func (l *Later) get(ctx context.Context) (tunnel.Session, error) {
	for {
		l.mu.Lock()
		s, ready := l.now, l.ready
		l.mu.Unlock()
		if s != nil {
			return s, nil
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Open waits until there is a session.
func (l *Later) Open(ctx context.Context, header []byte) (tunnel.Stream, error) {
	s, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	return s.Open(ctx, header)
}

// Accept waits until there is a session.
func (l *Later) Accept(ctx context.Context) (tunnel.Stream, error) {
	s, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	return s.Accept(ctx)
}
