package peer

import (
	"context"
	"sync"
	"time"

	"adit/internal/link"
	"adit/internal/netmon"
	"adit/internal/portmap"
	"adit/internal/punch"
)

const (
	// gatherFresh is how long what one session of several has found out about this side's addresses holds
	// for the next: NATs keep a mapping for 30 s or more.
	gatherFresh = 10 * time.Second
)

// A base is what the sessions of one place share: a pair of sockets, the mux that finds the session of a
// packet, the port that the router forwards, and a watch over the network. It is closed by the last that
// releases it.
type base struct {
	cfg     Config // ports, relays, logger; what concerns one session is the endpoint's
	host    *punch.Host
	mux     *link.Mux
	ctx     context.Context // ends with the last release
	cancel  context.CancelFunc
	monitor *netmon.Monitor
	wg      sync.WaitGroup

	mu        sync.Mutex
	users     int
	stun      []string
	ends      map[*endpoint]struct{} // told of the network
	mapping   mapping
	gathering *gathering // the last one; nil if what it found is not true any more
}

// A gathering is one search for this side's addresses, for all who want to know them now.
type gathering struct {
	done chan struct{} // closed when it is over; err, nat and endedAt are set
	err  error
	nat  punch.NAT

	mu       sync.Mutex
	endedAt  time.Time
	mapped   bool // a server has answered
	found    []punch.Candidate
	changed  chan struct{} // closed and replaced with each that is found
	measured chan struct{} // closed when nat is set
}

// newBase opens the sockets. The caller is its first user.
func newBase(cfg Config, stun []string) (*base, error) {
	host, err := punch.Listen(punch.Config{Port: cfg.Port, STUN: stun, Loopback: cfg.Loopback, Logger: cfg.Logger})
	if err != nil {
		return nil, failf(ClassOther, "choose another --port, or none", err, "%v", err)
	}
	b := &base{cfg: cfg, host: host, mux: link.NewMux(), users: 1, stun: stun, ends: make(map[*endpoint]struct{})}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	host.SetHandler(b.mux.Deliver)
	if cfg.PortMapping && !cfg.Loopback && cfg.Path != PathRelay {
		b.openMapper(func() mapper {
			return portmap.Open(portmap.Config{Port: host.Port(), Logger: cfg.Logger}, b.portMapped)
		})
	}
	b.monitor = netmon.Open(cfg.Logger, func(netmon.Event) { b.networkChanged() })
	return b, nil
}

// use adds a user, who releases it.
func (b *base) use() *base {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users++
	return b
}

// release ends one user's use, and everything with the last one.
func (b *base) release() error {
	b.mu.Lock()
	b.users--
	last, mapper := b.users == 0, b.mapping.mapper
	b.mu.Unlock()
	if !last {
		return nil
	}
	b.cancel()
	if mapper != nil {
		b.wg.Go(func() { mapper.Close() }) // it may take a second to remove the mapping
	}
	err := b.host.Close()
	b.monitor.Close()
	b.wg.Wait()
	return err
}

// setSTUN names other servers to ask from now on.
func (b *base) setSTUN(stun []string) {
	b.mu.Lock()
	b.stun, b.gathering = stun, nil
	b.mu.Unlock()
	b.host.SetSTUN(stun)
}

// firstSTUN names the servers to ask if there are none so far.
func (b *base) firstSTUN(stun []string) {
	if len(b.servers()) == 0 && len(stun) > 0 {
		b.setSTUN(stun)
	}
}

// servers returns the STUN servers that are asked.
func (b *base) servers() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stun
}

// join tells e of the port that the router forwards, now and later, and of changes of the network, until it
// leaves.
func (b *base) join(e *endpoint) {
	b.mu.Lock()
	b.ends[e] = struct{}{}
	b.mu.Unlock()
	b.tellMapped(e)
}

func (b *base) leave(e *endpoint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.ends, e)
}

func (b *base) each(f func(*endpoint)) {
	b.mu.Lock()
	ends := make([]*endpoint, 0, len(b.ends))
	for e := range b.ends {
		ends = append(ends, e)
	}
	b.mu.Unlock()
	for _, e := range ends {
		f(e)
	}
}

// networkChanged has the sessions look for other paths, and those that have none yet for their addresses here.
func (b *base) networkChanged() {
	b.forget()
	b.host.NetworkChanged()
	b.each(func(e *endpoint) { e.networkChanged() })
}

// forget drops what is known of the network, and asks the router that is there now for a port.
func (b *base) forget() {
	b.mu.Lock()
	b.gathering = nil
	b.mu.Unlock()
	b.remap()
}

// stopRefresh ends the refresh of this side's mappings, which a path that is up keeps alive by itself, unless
// somebody waits for a peer that may go by them.
func (b *base) stopRefresh() {
	waiting := false
	b.each(func(e *endpoint) { waiting = waiting || e.waits() })
	if !waiting {
		b.host.StopRefresh()
	}
}

// gather is punch.Host.Gather for several at once: who comes while a search is under way, or not later after
// one than fresh, is told what that finds.
func (b *base) gather(ctx context.Context, fresh time.Duration, report func(punch.Candidate)) error {
	g := b.gatherOnce(fresh)
	for n := 0; ; {
		g.mu.Lock()
		found, changed := g.found[n:], g.changed
		g.mu.Unlock()
		n += len(found)
		for _, c := range found {
			report(c)
		}
		select {
		case <-changed:
			continue
		default:
		}
		select {
		case <-changed:
		case <-g.done:
			g.mu.Lock()
			over := n == len(g.found)
			g.mu.Unlock()
			if over {
				return g.err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// nat is punch.Host.NAT, of the last search; the zero NAT if ctx ends first.
func (b *base) nat(ctx context.Context) punch.NAT {
	g := b.gatherOnce(time.Hour)
	select {
	case <-g.measured:
		return g.nat
	case <-ctx.Done():
		return punch.NAT{}
	}
}

// gatherOnce returns a search that is still true: under way, or over no longer than fresh and with an answer.
func (b *base) gatherOnce(fresh time.Duration) *gathering {
	b.mu.Lock()
	defer b.mu.Unlock()
	if g := b.gathering; g != nil {
		g.mu.Lock()
		ok := g.endedAt.IsZero() || time.Since(g.endedAt) < fresh && (g.mapped || len(b.stun) == 0)
		g.mu.Unlock()
		if ok {
			return g
		}
	}
	g := &gathering{done: make(chan struct{}), changed: make(chan struct{}), measured: make(chan struct{})}
	b.gathering = g
	b.wg.Go(func() {
		defer close(g.measured)
		g.err = b.host.Gather(b.ctx, func(c punch.Candidate) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.found = append(g.found, c)
			g.mapped = g.mapped || c.Type == punch.ServerReflexive
			close(g.changed)
			g.changed = make(chan struct{})
		})
		g.mu.Lock()
		g.endedAt = time.Now()
		g.mu.Unlock()
		close(g.done)
		g.nat = b.host.NAT(b.ctx)
	})
	return g
}
