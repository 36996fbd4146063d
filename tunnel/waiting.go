package tunnel

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// openSoon is what opening a stream takes at most where there is a session: it waits for nobody.
	openSoon = 200 * time.Millisecond

	// maxWaiting is how many connections of a listener wait for a session. One more ends the one that came first.
	maxWaiting = 256

	// endedFor is how long a connection waits whose client has ended its direction. It may have sent all it has to
	// say and wait for the answer, or have left: only an answer would tell.
	endedFor = 30 * time.Second

	// unwatchedFor is how long a connection waits whose end cannot be seen.
	unwatchedFor = 2 * time.Minute
)

var (
	errCrowded    = errors.New("too many connections wait for the session")
	errClientLeft = errors.New("the client left before there was a session")
	errWaited     = errors.New("there was no session for too long")
)

// An end is what can be seen of a connection that nobody reads.
type end int

const (
	endNone  end = iota // not yet, or nothing can be seen
	endInput            // the other side sends no more; it may still read
	endBoth             // the other side has gone
)

// waiting are the connections of one listener that wait for a session: who gives up must not hold a socket, nor
// reach the target later. Nil has no bound.
type waiting struct {
	mu    sync.Mutex
	stops []*func() // the first came first
}

// open is s.Open on behalf of c, which nobody reads meanwhile and which has no read deadline. It fails when c's other
// side leaves.
func (w *waiting) open(ctx context.Context, s Session, header []byte, c net.Conn) (Stream, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	t := time.AfterFunc(openSoon, func() {
		defer close(watched)
		w.watch(ctx, cancel, c)
	})
	st, err := s.Open(ctx, header)
	if !t.Stop() {
		cancel(nil)
		_ = c.SetReadDeadline(time.Unix(1, 0)) // unblocks seeEnd; c may be closed
		<-watched
		_ = c.SetReadDeadline(time.Time{}) // the same
	}
	return st, err
}

// watch calls cancel when c is not worth waiting for any more. It returns then, or when ctx is done and c has a read
// deadline that has passed.
func (w *waiting) watch(ctx context.Context, cancel context.CancelCauseFunc, c net.Conn) {
	defer w.enter(func() { cancel(errCrowded) })()
	wait, why := unwatchedFor, errWaited
	switch seeEnd(c) {
	case endBoth:
		cancel(errClientLeft)
		return
	case endInput:
		wait, why = endedFor, errClientLeft
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		cancel(why)
	case <-ctx.Done():
	}
}

// enter adds one that waits, whom stop ends, until leave is called.
func (w *waiting) enter(stop func()) (leave func()) {
	if w == nil {
		return func() {}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.stops) >= maxWaiting {
		(*w.stops[0])()
		w.stops = slices.Delete(w.stops, 0, 1)
	}
	p := &stop
	w.stops = append(w.stops, p)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if i := slices.Index(w.stops, p); i >= 0 {
			w.stops = slices.Delete(w.stops, i, i+1)
		}
	}
}
