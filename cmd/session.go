package cmd

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"adit/internal/event"
	"adit/internal/peer"
	"adit/signal"
	"adit/tunnel"
)

// endWait is how long an error of a stream waits for the end of its session, which may be the reason.
const endWait = 500 * time.Millisecond

// meet brings the peer within reach. The session ends with what is returned, which may be called again.
// data says that standard input and output carry data.
func meet(ctx context.Context, u *ui, cfg peer.Config, data bool) (*peer.Session, func(), error) {
	release, err := pasteThrough(u, &cfg, data)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	s, err := peer.Dial(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	how := met(cfg.Signal)
	if cfg.PeerName != "" {
		how = "key"
	}
	u.run.add(s, how)
	unhook := recoverOnHangup(s)
	return s, sync.OnceFunc(func() {
		unhook()
		_ = s.Close() // what there is to tell, Wait tells
	}), nil
}

// wait blocks until the session ends or ctx does, and returns why.
func wait(ctx context.Context, s interface{ Wait() error }) error {
	ended := make(chan error, 1) // the one result of Wait
	go func() { ended <- s.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// streamEnded returns why a single stream of s failed with err: the end of the session where that is the
// reason, because it says more.
func streamEnded(ctx context.Context, s interface{ Wait() error }, err error) error {
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
	if ended := wait(limit, s); ended != nil {
		return ended
	}
	return &failure{code: exitGone, message: "the other side ended the session before the data did", hint: "see what it says there"}
}

// A laterSession is a session that is not there yet, or not any more and soon again. Listeners can be opened on
// it before the peer is met, so that a port in use does not cost a code; their first connections wait.
type laterSession struct {
	mu    sync.Mutex
	ready chan struct{}  // closed while there is a session
	now   tunnel.Session // nil while there is none
}

func newLaterSession() *laterSession { return &laterSession{ready: make(chan struct{})} }

// set makes s the session, also in the place of another.
func (l *laterSession) set(s tunnel.Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == nil {
		close(l.ready)
	}
	l.now = s
}

// gone says that there is no session for the time being.
func (l *laterSession) gone() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now != nil {
		l.now, l.ready = nil, make(chan struct{})
	}
}

// get waits until there is a session.
func (l *laterSession) get(ctx context.Context) (tunnel.Session, error) {
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
func (l *laterSession) Open(ctx context.Context, header []byte) (tunnel.Stream, error) {
	s, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	return s.Open(ctx, header)
}

// Accept waits until there is a session.
func (l *laterSession) Accept(ctx context.Context) (tunnel.Stream, error) {
	s, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	return s.Accept(ctx)
}

// streamOptions reports streams as events.
func (u *ui) streamOptions() tunnel.Options {
	return tunnel.Options{
		Logger: u.logger(),
		Flows:  u.flows,
		OnStream: func(e tunnel.StreamEvent) {
			u.event(event.Event{Name: event.Stream, State: e.State, Target: e.Target, Message: e.Reason})
		},
	}
}

// failureBelow gives the errors of the layers below their exit codes; nil for one that has none.
func failureBelow(err error) *failure {
	if f := failureOfIdentity(err); f != nil {
		return f
	}
	var met *peer.Error
	var refused *tunnel.RefusedError
	var local *tunnel.LocalError
	var token *signal.TokenError
	switch {
	case errors.As(err, &local):
		return &failure{code: exitOther, message: err.Error(), hint: "see what writes to adit, and what reads from it"}
	case errors.As(err, &refused):
		f := &failure{code: exitRefused, message: err.Error()}
		switch refused.Code {
		case tunnel.CodeRefused:
			f.hint = `have the other side expose it: "adit expose TARGET…"`
		case tunnel.CodeUsage:
			f.hint = "use the same version of adit on both sides"
		default:
			f.hint = "see whether the service runs over there"
		}
		return f
	case errors.As(err, &met):
		f := &failure{code: int(met.Class), message: met.Message, hint: met.Hint}
		if f.hint == "" {
			f.hint = "run it again with -v to see more"
		}
		return f
	case errors.As(err, &token):
		return &failure{code: exitSignal, message: token.Problem, hint: token.Hint}
	case errors.Is(err, errNoAnswer):
		return &failure{code: exitGone, message: err.Error(), hint: "the path may be interrupted; read the files again when it is up, or let the next session have it"}
	case errors.Is(err, tunnel.ErrListen):
		return &failure{code: exitListen, message: err.Error(), hint: "stop what else uses the port, or take another; port 0 takes any that is free"}
	case errors.Is(err, tunnel.ErrPipe), errors.Is(err, net.ErrClosed):
		return &failure{code: exitGone, message: err.Error(), hint: "see what the other side says"}
	}
	return nil
}

// list joins names for a sentence.
func list(names []string) string {
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
}
