package cmd

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"adit/internal/control"
	"adit/internal/fail"
	"adit/tunnel"
)

// sharing is how one process uses the session of another. A connect with -W first asks the others of
// this user whether one has, or is about to have, a session with that peer; then its stream is opened
// there, in one round trip, and it needs no session of its own.

// aditDomain may follow the name of a peer, so that an ssh configuration can say Host *.adit.
const aditDomain = ".adit"

// names returns the names by which the session of a command line is lent and looked for: those of the peer, or the code.
func (o *connectOptions) names() []string {
	if o.noShare {
		return nil
	}
	var names []string
	for _, s := range []string{o.peer(), peerName(o.share)} {
		if s != "" && !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	return names
}

// peerName returns the name of a peer without what makes it the name of a host.
func peerName(s string) string {
	s = strings.TrimSpace(s)
	if name := strings.TrimSuffix(s, aditDomain); name != "" {
		return name
	}
	return s
}

// A lending is a session that other processes may use.
type lending struct {
	names   []string
	session tunnel.Session
	opts    tunnel.Options

	mu    sync.Mutex
	ended bool // no stream begins any more
	wg    sync.WaitGroup
}

// share lends a session by these names from now on; with none it lends nothing.
func (r *running) share(names []string, s tunnel.Session, opts tunnel.Options) *lending {
	l := &lending{names: names, session: s, opts: opts, ended: len(names) == 0}
	if r != nil {
		r.mu.Lock()
		r.lends = l
		r.mu.Unlock()
	}
	return l
}

// finish lends no more and returns when the streams that were lent have ended, or ctx has.
func (l *lending) finish(ctx context.Context) {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	done := make(chan struct{})
	go func() { // ends with the session, if not before
		l.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// lendsTo reports whether this process has a session that goes by that name.
func (r *running) lendsTo(name string) bool {
	r.mu.Lock()
	l := r.lends
	r.mu.Unlock()
	if l == nil || !slices.Contains(l.names, name) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.ended
}

// lend opens a stream for another process. It waits for a session that is not there yet.
func (r *running) lend(ctx context.Context, c *control.Conn, _, target string) {
	r.mu.Lock()
	l := r.lends
	r.mu.Unlock()
	t, err := tunnel.ParseTarget(target)
	l.mu.Lock()
	switch {
	case err != nil:
	case l.ended:
		err = errors.New("the process ends")
	default:
		l.wg.Add(1)
		defer l.wg.Done()
	}
	l.mu.Unlock()
	if err != nil {
		_ = c.Refuse(&control.Refusal{Message: err.Error()}) // a client that has left needs no answer
		_ = c.Close()                                        // the same
		return
	}
	_ = tunnel.Join(ctx, l.session, t, c, func(err error) { // that process tells what becomes of it
		var refused *tunnel.RefusedError
		switch {
		case err == nil:
			_ = c.Accept() // what is written next fails too
		case errors.As(err, &refused):
			_ = c.Refuse(&control.Refusal{Message: refused.Reason, Code: int(refused.Code)})
		default:
			_ = c.Refuse(&control.Refusal{Message: err.Error()})
		}
	}, l.opts)
}

// borrow joins standard input and output to target over the session of another process. found says
// that there is one.
func borrow(ctx context.Context, u *ui, names []string, target tunnel.Target) (found bool, err error) {
	for _, name := range names {
		st, err := control.Dial(ctx, name, target.String())
		if errors.Is(err, control.ErrNoMatch) {
			continue
		}
		if err != nil {
			return ctx.Err() != nil, err
		}
		u.logger().Debug("using the session of another process", "peer", name)
		u.arrived() // what is left to wait for, the lender tells
		t := &transfer{began: time.Now()}
		in, out := t.counting(dataInput(u), dataOutput())
		b := borrowed{st, make(chan struct{})}
		err = written(tunnel.Stdio(ctx, b, target, in, out))
		if err == nil && u.verbose {
			u.say("%s", t.summary(time.Now(), "over the session of another process"))
		}
		_ = st.Close() // it has ended in any case
		var refused *tunnel.RefusedError
		var local *tunnel.LocalError
		if err != nil && ctx.Err() == nil && !errors.As(err, &refused) && !errors.As(err, &local) {
			err = &fail.Failure{Code: fail.Gone, Message: err.Error(), Hint: "see what the adit that has the session says, or leave it aside with --no-share"}
		}
		return true, err
	}
	return false, nil
}

// A borrowed is a session of another process, of which one stream is there.
type borrowed struct {
	stream *control.Stream
	failed chan struct{} // nobody closes it: whoever reads or writes hears of the end
}

// Open returns the stream, which leads to where it was asked for.
func (b borrowed) Open(context.Context, []byte) (tunnel.Stream, error) {
	return borrowedStream{b.stream, b.failed}, nil
}

// Accept is not what it is for.
func (b borrowed) Accept(context.Context) (tunnel.Stream, error) { return nil, errNotHere }

var errNotHere = errors.New("a stream of another process was not opened by the peer")

type borrowedStream struct {
	*control.Stream
	failed chan struct{}
}

func (s borrowedStream) Header() []byte              { return nil }
func (s borrowedStream) Accept() error               { return errNotHere }
func (s borrowedStream) Refuse(uint32, string) error { return errNotHere }
func (s borrowedStream) Reset(uint32) error          { return s.Close() }
func (s borrowedStream) Done() <-chan struct{}       { return s.failed }

// WaitAccepted unblocks when ctx ends.
func (s borrowedStream) WaitAccepted(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // unblocks Wait
	defer stop()
	err := s.Wait()
	var no *control.Refusal
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &no) && no.Code != 0:
		return &tunnel.RefusedError{Code: uint32(no.Code), Reason: no.Message}
	}
	return err
}
