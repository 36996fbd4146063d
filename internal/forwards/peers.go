package forwards

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"adit/internal/plan"
	"adit/tunnel"
)

// carrierEvery is how often is looked whether the session that carries has fallen silent, where there are others.
const carrierEvery = time.Second

// Peers is what one process forwards to many known peers. Listeners are there before the peers are, and stay
// when they go. Any goroutine may use it.
type Peers struct {
	ctx  context.Context // of the goroutines, which end with it
	stop context.CancelFunc
	told Told
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	list   map[string]*peerForward
}

// A peerForward is that of one peer. A peer may have several sessions: one of them carries what is forwarded.
type peerForward struct {
	*Forwarder
	changed chan struct{} // capacity 1: one says it all

	mu       sync.Mutex
	sessions []Carrier // the oldest first
}

// OpenPeers listens. The caller closes what it returns.
func OpenPeers(ctx context.Context, told Told, plans map[string]plan.Forwarding) (*Peers, error) {
	p := &Peers{told: told, list: make(map[string]*peerForward)}
	p.ctx, p.stop = context.WithCancel(ctx)
	if err := p.Change(plans); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Change makes plans what is forwarded, as Forwarder.change does.
func (p *Peers) Change(plans map[string]plan.Forwarding) error {
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
			if err := f.Change(plan.Forwarding{}); err != nil {
				return err
			}
		}
	}
	errs := make(chan error, len(plans))
	for name, asked := range plans {
		go func() { errs <- list[name].Change(asked) }() // one may wait for its peer
	}
	var first error
	for range plans {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}

func (p *Peers) ofLocked(name string) (*peerForward, error) {
	if f := p.list[name]; f != nil {
		return f, nil
	}
	if p.closed {
		return nil, net.ErrClosed
	}
	inner, err := Open(p.ctx, p.told, plan.Forwarding{})
	if err != nil {
		return nil, err
	}
	inner.peer = name
	f := &peerForward{Forwarder: inner, changed: make(chan struct{}, 1)}
	p.list[name] = f
	p.wg.Go(func() { f.run(p.ctx) })
	return f, nil
}

// Enter has a session with the named peer carry what is forwarded to it, if no other does. What comes back for -R is
// known to the set that it returns. leave is called at the session's end.
func (p *Peers) Enter(name string, s Carrier) (_ *tunnel.Remotes, leave func(), _ error) {
	p.mu.Lock()
	f, err := p.ofLocked(name)
	p.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	f.edit(func(list []Carrier) []Carrier { return append(list, s) })
	return f.remotes, func() {
		f.edit(func(list []Carrier) []Carrier {
			return slices.DeleteFunc(list, func(x Carrier) bool { return x == s })
		})
	}, nil
}

// Close ends all of it, whether its ctx has ended or not. Sessions have ended before.
func (p *Peers) Close() {
	p.stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, f := range p.list {
		f.stop(net.ErrClosed) // a peer that is asked to listen does not answer any more
	}
	p.wg.Wait()
	for _, f := range p.list {
		f.Close()
	}
}

func (f *peerForward) edit(change func([]Carrier) []Carrier) {
	f.mu.Lock()
	f.sessions = change(f.sessions)
	f.mu.Unlock()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// run gives the Forwarder the session that carries, until ctx ends.
func (f *peerForward) run(ctx context.Context) {
	var now Carrier
	for {
		f.mu.Lock()
		next, several := carrierOf(f.sessions, now, interrupted), len(f.sessions) > 1
		f.mu.Unlock()
		if next != now {
			if now != nil {
				f.Pause()
			}
			if now = next; now != nil {
				if err := f.use(now); err != nil && ctx.Err() == nil {
					f.told.Say("%s: %s", f.peer, f.told.Explain(err))
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

func interrupted(s Carrier) bool { return s.Stats().Interrupted }

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
