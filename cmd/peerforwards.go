package cmd

import (
	"context"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"adit/internal/identity"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

// carrierEvery is how often is looked whether the session that carries has fallen silent, where there are others.
const carrierEvery = time.Second

// plansOf returns what "expose --listen" forwards, by the name of the peer, as the command line or the file says now:
// each forward has the name and "=" in front of it.
func plansOf(c *cli.Context, file configFile, known *identity.Peers) (map[string]forwarding, error) {
	texts := make(map[string]*[3][]string)
	for i, flag := range []string{"local", "remote", "dynamic"} {
		for _, s := range valuesNow(c, file, flag) {
			name, text := ownerOf(s)
			if name == "" {
				return nil, usagef("for example: --"+flag+" laptop="+strings.ReplaceAll(s, comma, ","), "with --listen, which serves many, --%s %s has to say whose it is", flag, strings.ReplaceAll(s, comma, ","))
			}
			if _, ok := known.ByName(name); !ok {
				hint := `"adit peers list" shows who is known`
				if n := nearest(name, known.Names()); n != "" {
					hint = "did you mean " + n + "?"
				}
				return nil, usagef(hint, "--%s: there is no peer %q", flag, name)
			}
			if texts[name] == nil {
				texts[name] = new([3][]string)
			}
			texts[name][i] = append(texts[name][i], text)
		}
	}
	plans := make(map[string]forwarding, len(texts))
	for name, t := range texts {
		var err error
		if plans[name], err = parseForwarding(t[0], t[1], t[2]); err != nil {
			return nil, err
		}
	}
	return plans, nil
}

// ownerOf splits NAME=FORWARD. The name is empty if there is none: the path of a unix socket may have a "=" too.
func ownerOf(s string) (name, forward string) {
	name, forward, ok := strings.Cut(s, "=")
	if !ok || identity.CheckName(name) != nil {
		return "", s
	}
	return name, forward
}

// peerForwards is what one process forwards to many known peers. Listeners are there before the peers are, and stay
// when they go. Any goroutine may use it.
type peerForwards struct {
	ctx  context.Context // of the goroutines, which end with it
	stop context.CancelFunc
	u    *ui
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	list   map[string]*peerForward
}

// A peerForward is that of one peer. A peer may have several sessions: one of them carries what is forwarded.
type peerForward struct {
	*forwarder
	changed chan struct{} // capacity 1: one says it all

	mu       sync.Mutex
	sessions []carrier // the oldest first
}

// openPeerForwards listens. The caller closes what it returns.
func openPeerForwards(ctx context.Context, u *ui, plans map[string]forwarding) (*peerForwards, error) {
	p := &peerForwards{u: u, list: make(map[string]*peerForward)}
	p.ctx, p.stop = context.WithCancel(ctx)
	if err := p.change(plans); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// change makes plans what is forwarded, as forwarder.change does.
func (p *peerForwards) change(plans map[string]forwarding) error {
	p.mu.Lock()
	list := maps.Clone(p.list)
	for name := range plans {
		if list[name] != nil {
			continue
		}
		f, err := p.ofLocked(name)
		if err != nil {
			p.mu.Unlock()
			return err
		}
		list[name] = f
	}
	p.mu.Unlock()
	// First those of whom nothing is left: what is new may want their ports.
	for name, f := range list {
		if _, stays := plans[name]; !stays {
			if err := f.change(forwarding{}); err != nil {
				return err
			}
		}
	}
	errs := make(chan error, len(plans))
	for name, plan := range plans {
		go func() { errs <- list[name].change(plan) }() // one may wait for its peer
	}
	var first error
	for range plans {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}

func (p *peerForwards) ofLocked(name string) (*peerForward, error) {
	if f := p.list[name]; f != nil {
		return f, nil
	}
	if p.closed {
		return nil, net.ErrClosed
	}
	inner, err := openForwards(p.ctx, p.u, forwarding{})
	if err != nil {
		return nil, err
	}
	inner.peer = name
	f := &peerForward{forwarder: inner, changed: make(chan struct{}, 1)}
	p.list[name] = f
	p.wg.Go(func() { f.run(p.ctx) })
	return f, nil
}

// enter has a session with the named peer carry what is forwarded to it, if no other does. What comes back for -R is
// known to the set that it returns. leave is called at the session's end.
func (p *peerForwards) enter(name string, s carrier) (_ *tunnel.Remotes, leave func(), _ error) {
	p.mu.Lock()
	f, err := p.ofLocked(name)
	p.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	f.edit(func(list []carrier) []carrier { return append(list, s) })
	return f.remotes, func() {
		f.edit(func(list []carrier) []carrier {
			return slices.DeleteFunc(list, func(x carrier) bool { return x == s })
		})
	}, nil
}

// close ends all of it, whether its ctx has ended or not. Sessions have ended before.
func (p *peerForwards) close() {
	p.stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, f := range p.list {
		f.stop(net.ErrClosed) // a peer that is asked to listen does not answer any more
	}
	p.wg.Wait()
	for _, f := range p.list {
		f.close()
	}
}

func (f *peerForward) edit(change func([]carrier) []carrier) {
	f.mu.Lock()
	f.sessions = change(f.sessions)
	f.mu.Unlock()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// run gives the forwarder the session that carries, until ctx ends.
func (f *peerForward) run(ctx context.Context) {
	var now carrier
	for {
		f.mu.Lock()
		next, several := carrierOf(f.sessions, now, interrupted), len(f.sessions) > 1
		f.mu.Unlock()
		if next != now {
			if now != nil {
				f.pause()
			}
			if now = next; now != nil {
				if err := f.use(now); err != nil && ctx.Err() == nil {
					e := failureOf(err)
					if e.hint != "" {
						e.message += " (" + e.hint + ")"
					}
					f.u.say("%s: %s", f.peer, e.message)
				}
			}
		}
		var look <-chan time.Time // nil where there is nothing to choose
		if several {
			look = time.After(carrierEvery)
		}
		select {
		case <-f.changed:
		case <-look:
		case <-ctx.Done():
			return
		}
	}
}

func interrupted(s carrier) bool { return s.Stats().Interrupted }

// carrierOf returns the session that carries: the one that does now, unless its peer is silent and that of another
// is not; nil if there is none. The newest is the most likely to last.
func carrierOf[S comparable](sessions []S, now S, silent func(S) bool) S {
	var none S
	there := slices.Contains(sessions, now)
	if there && !silent(now) {
		return now
	}
	for _, s := range slices.Backward(sessions) {
		if !silent(s) {
			return s
		}
	}
	switch {
	case there:
		return now
	case len(sessions) > 0:
		return sessions[len(sessions)-1]
	}
	return none
}
