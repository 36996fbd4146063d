package peer

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/punch"
	"adit/internal/reach"
	"adit/internal/turn"
	"adit/signal"
)

// A PathPolicy says which paths may be used.
type PathPolicy string

const (
	PathAuto   PathPolicy = ""       // direct first, a relay meanwhile
	PathDirect PathPolicy = "direct" // no relay
	PathRelay  PathPolicy = "relay"  // nothing else: the peer does not learn this side's addresses
)

const (
	// relayAfter is how long direct paths are tried before a relay that works is taken.
	relayAfter = time.Second

	// streamAfter is how long UDP has to get an allocation before TCP and TLS are tried as well.
	streamAfter = 600 * time.Millisecond

	// allocateFor is how long all of that may take.
	allocateFor = 12 * time.Second

	permitFor = 10 * time.Second

	// relayHopeFor is how long either side may take to name a relay where nothing else is left.
	relayHopeFor = 5 * time.Second

	// replaceAfter is how long an allocation outlives the one that comes in its place.
	replaceAfter = 15 * time.Second
)

// relays are this side's allocations and what is permitted on them. Guarded by endpoint.mu.
type relays struct {
	started  bool
	asking   int                 // answers about relays that are not there yet, allocations included
	carried  netip.AddrPort      // what stands for the peer behind the rendezvous; invalid if that does not carry packets
	carrying *carried            // the same
	servers  []signal.TURNServer // that the rendezvous named
	refused  bool                // one of them did not know the credentials
	faults   []relayFault        // why those that were named cannot be had, each once
	allocs   []*turn.Allocation
	peers    []signal.Candidate               // the peer's, as far as relays are concerned with them
	addrs    atomic.Pointer[[]netip.AddrPort] // those on relays, for who must not wait for mu; written with it held
	probing  context.Context                  // of the checks; nil before they begin
	works    chan relayResult                 // capacity 1
}

// A relayResult is a path through one relay or two over which a sealed probe came back.
type relayResult struct {
	to  netip.AddrPort
	rtt time.Duration
}

// allocate gets an address on one of the servers in the background: over UDP, or over TCP and TLS if
// that takes too long. It is told to the peer like any other candidate. What it returns is closed when that is over;
// nil if there is nothing to ask for, or somebody else has.
func (e *endpoint) allocate(servers []signal.TURNServer) <-chan struct{} {
	e.mu.Lock()
	e.relays.servers = servers
	servers = slices.Concat(e.cfg.TURN, servers)
	begin := !e.relays.started && len(servers) > 0 && e.cfg.Path != PathDirect
	if begin {
		e.relays.started = true
		e.relays.asking++
	}
	e.mu.Unlock()
	if !begin {
		return nil
	}
	over := make(chan struct{})
	var datagram, stream []signal.TURNServer
	for _, s := range servers {
		if strings.HasPrefix(s.URL, "turns:") || strings.HasSuffix(s.URL, "transport=tcp") {
			stream = append(stream, s)
		} else {
			datagram = append(datagram, s)
		}
	}
	e.wg.Go(func() {
		defer func() {
			e.mu.Lock()
			e.relays.asking--
			e.mu.Unlock()
			close(over)
		}()
		ctx, cancel := context.WithTimeout(e.ctx, allocateFor)
		defer cancel()
		var wg sync.WaitGroup
		defer wg.Wait()
		got := make(chan *turn.Allocation)
		try := func(servers []signal.TURNServer) {
			for _, s := range servers {
				wg.Go(func() {
					a, err := turn.Allocate(ctx, turn.Config{Server: turn.Server(s), Dial: reach.DialThrough, TLS: e.cfg.TLS, Logger: e.cfg.Logger})
					if err != nil {
						e.cfg.Logger.Info("no address on a relay", "url", s.URL, "err", err)
						if !errors.Is(err, context.Canceled) { // another one was faster
							e.relayFailed(s.URL, err)
						}
					}
					if errors.Is(err, turn.ErrUnauthorized) {
						e.mu.Lock()
						e.relays.refused = true
						e.mu.Unlock()
						e.wakeRoamer()
					}
					select {
					case got <- a: // nil for a failure
					case <-ctx.Done():
						if a != nil {
							a.Close()
						}
					}
				})
			}
		}
		try(datagram)
		pending := len(datagram)
		wait := time.NewTimer(e.streamWait())
		defer wait.Stop()
		if pending == 0 {
			wait.Reset(0)
		}
		tried := false
		for pending > 0 || !tried {
			select {
			case a := <-got:
				pending--
				if a != nil {
					cancel() // the others give theirs back
					e.allocated(a)
					return
				}
				if pending == 0 && !tried {
					wait.Reset(0)
				}
			case <-wait.C:
				try(stream)
				pending += len(stream)
				tried = true
			case <-ctx.Done():
				return
			}
		}
	})
	return over
}

// allocateFrom is allocate on the relays that the rendezvous knows, and on those of the settings.
func (e *endpoint) allocateFrom(source signal.TURNSource) {
	if e.cfg.Path == PathDirect {
		return
	}
	e.mu.Lock()
	e.relays.asking++
	e.mu.Unlock()
	e.wg.Go(func() {
		ctx, cancel := context.WithTimeout(e.ctx, allocateFor)
		defer cancel()
		servers, err := source.TURN(ctx)
		if err != nil {
			e.cfg.Logger.Info("the rendezvous names no relays", "err", err)
		}
		e.allocate(servers)
		e.mu.Lock()
		e.relays.asking--
		e.mu.Unlock()
	})
}

// onRelay reports whether packets that come from an address come through a relay of either side. The link asks it.
func (e *endpoint) onRelay(from netip.AddrPort) bool {
	addrs := e.relays.addrs.Load()
	return relayed(from) || addrs != nil && slices.Contains(*addrs, from)
}

// relayHope reports whether a path through a relay may still come up.
func (e *endpoint) relayHope() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := &e.relays
	return r.asking > 0 || r.carried.IsValid() || len(r.allocs) > 0 || slices.ContainsFunc(r.peers, func(c signal.Candidate) bool {
		return c.Type == signal.CandidateType(punch.Relay)
	})
}

// allocated takes over an allocation: it is told to the peer, and tried if the peer is known.
func (e *endpoint) allocated(a *turn.Allocation) {
	e.cfg.Logger.Info("address on a relay", "relayed", a.Relayed(), "transport", a.Transport())
	e.board.attach(a)
	e.mu.Lock()
	e.relays.allocs, e.relays.faults = append(e.relays.allocs, a), nil
	older := len(e.relays.allocs) > 1
	peers := slices.Clone(e.relays.peers)
	e.mu.Unlock()
	for _, c := range peers {
		e.tryThrough(a, c)
	}
	e.found(punch.Candidate{Type: punch.Relay, Addr: a.Relayed()})
	if older {
		e.wg.Go(func() {
			if sleep(e.ctx, replaceAfter) {
				e.trimRelays(a)
			}
		})
	}
}

// relayCandidate notes an address of the peer that relays matter to: those that it has on relays, and
// those that this side's relay may reach it at.
func (e *endpoint) relayCandidate(c signal.Candidate) {
	ip := c.Addr.Addr()
	if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return
	}
	e.mu.Lock()
	if e.cfg.Path == PathDirect || len(e.relays.peers) >= 32 || slices.ContainsFunc(e.relays.peers, func(o signal.Candidate) bool { return o.Addr == c.Addr && o.Type == c.Type }) {
		e.mu.Unlock()
		return
	}
	e.relays.peers = append(e.relays.peers, c)
	if c.Type == signal.CandidateType(punch.Relay) {
		var addrs []netip.AddrPort
		if old := e.relays.addrs.Load(); old != nil {
			addrs = *old
		}
		addrs = append(slices.Clip(addrs), c.Addr)
		e.relays.addrs.Store(&addrs)
	}
	allocs := slices.Clone(e.relays.allocs)
	e.mu.Unlock()
	for _, a := range allocs {
		e.tryThrough(a, c)
	}
	if c.Type == signal.CandidateType(punch.Relay) && e.cfg.Path != PathRelay {
		e.probeRelay(c.Addr)
	}
}

// tryThrough lets the peer in at an allocation, and probes the way through it. The peer's probes come
// from its addresses, whatever port its NAT gives them; ours go to its relay, and to where it is
// reachable.
func (e *endpoint) tryThrough(a *turn.Allocation, c signal.Candidate) {
	e.wg.Go(func() {
		ctx, cancel := context.WithTimeout(e.ctx, permitFor)
		defer cancel()
		if err := a.Permit(ctx, c.Addr.Addr()); err != nil {
			e.cfg.Logger.Debug("relay does not let the peer in", "peer", c.Addr, "err", err) // a private address of its, say
			return
		}
		if name := e.board.name(a, c.Addr); name.IsValid() {
			e.probeRelay(name)
		}
	})
}

// probeRelay sends sealed probes over a path through a relay until one comes back or the search is
// over. The first path that answers is the one; it is reported once.
func (e *endpoint) probeRelay(to netip.AddrPort) {
	e.mu.Lock()
	ctx, l := e.relays.probing, e.link
	works := e.relays.works
	e.mu.Unlock()
	if ctx == nil || ctx.Err() != nil {
		return // connect begins with all that is known
	}
	e.wg.Go(func() {
		rtt, err := l.Probe(ctx, to)
		if err != nil {
			return
		}
		select {
		case works <- relayResult{to, rtt}:
		default: // another one was first
		}
	})
}

// probeRelays begins to try every path through relays, and those that become known until ctx is done.
func (e *endpoint) probeRelays(ctx context.Context) <-chan relayResult {
	e.mu.Lock()
	e.relays.probing = ctx
	e.relays.works = make(chan relayResult, 1)
	works := e.relays.works
	allocs, peers := slices.Clone(e.relays.allocs), slices.Clone(e.relays.peers)
	carried := e.relays.carried
	e.mu.Unlock()
	if carried.IsValid() {
		e.probeRelay(carried)
	}
	for _, name := range e.board.reflexive() {
		e.probeRelay(name)
	}
	for _, c := range peers {
		for _, a := range allocs {
			e.tryThrough(a, c)
		}
		if c.Type == signal.CandidateType(punch.Relay) && e.cfg.Path != PathRelay {
			e.probeRelay(c.Addr)
		}
	}
	return works
}

// sourceTo returns the address that packets to an address have as their source, with the given port. Connecting a UDP
// socket sends nothing.
func sourceTo(to netip.AddrPort, port int) netip.AddrPort {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return netip.AddrPort{}
	}
	defer c.Close()
	return netip.AddrPortFrom(c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), uint16(port))
}

// relayPair describes a path through a relay as ICE describes the direct ones.
func (e *endpoint) relayPair(to netip.AddrPort) (pair punch.Pair, transport string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	transport = "udp"
	pair.Remote.Addr = to
	if r, ok := e.board.route(to); ok {
		a, ok := r.via.(*turn.Allocation)
		if !ok {
			return punch.Pair{}, "https"
		}
		pair.Local = punch.Candidate{Type: punch.Relay, Addr: a.Relayed()}
		pair.Remote.Addr = r.peer
		transport = a.Transport()
	} else {
		for _, c := range e.candidates {
			if pair.Local.Addr.Addr().Is4() == to.Addr().Is4() && pair.Local.Addr.IsValid() {
				break
			}
			if c.Type == punch.HostCandidate {
				pair.Local = c
			}
		}
		if !pair.Local.Addr.IsValid() { // in a network that was entered just now, of which nothing is known yet
			pair.Local.Addr = sourceTo(to, e.host.Port())
		}
	}
	pair.Remote.Type = punch.PeerReflexive
	for _, c := range e.relays.peers {
		if c.Addr == pair.Remote.Addr {
			pair.Remote.Type = punch.CandidateType(c.Type)
		}
	}
	return pair, transport
}

// reallocate gets an address on a relay again, beside those that there are: they may belong to a network
// that this machine has left, or to a server that is gone.
func (e *endpoint) reallocate() {
	e.mu.Lock()
	again := e.relays.started
	e.relays.started = false
	servers := e.relays.servers
	e.mu.Unlock()
	if again {
		e.allocate(servers)
	}
}

// renew asks a mailbox for relays that know this side, where one did not, and tries those.
func (e *endpoint) renew(ctx context.Context, box *signal.Mailbox) {
	e.mu.Lock()
	known := e.relays.servers
	e.mu.Unlock()
	servers, err := box.TURN(ctx, known)
	if err != nil || len(servers) == 0 {
		e.cfg.Logger.Info("no other relays", "err", err)
		return
	}
	e.mu.Lock()
	news := !slices.Equal(servers, e.relays.servers)
	e.relays.servers, e.relays.refused = servers, false
	e.mu.Unlock()
	if news {
		e.reallocate()
	}
}

// relayRefused reports whether a relay did not know this side's credentials.
func (e *endpoint) relayRefused() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.relays.refused
}

// carries reports whether the rendezvous carries packets, should it come to that.
func (e *endpoint) carries() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.relays.carried.IsValid()
}

// trimRelays gives back the allocations but for one and the one in use.
func (e *endpoint) trimRelays(keep *turn.Allocation) {
	in, _ := e.board.route(e.link.Remote())
	var out []*turn.Allocation
	e.mu.Lock()
	e.relays.allocs = slices.DeleteFunc(e.relays.allocs, func(a *turn.Allocation) bool {
		if a == keep || in.via == carrier(a) {
			return false
		}
		out = append(out, a)
		e.candidates = slices.DeleteFunc(e.candidates, func(c punch.Candidate) bool {
			return c.Type == punch.Relay && c.Addr == a.Relayed()
		})
		return true
	})
	e.mu.Unlock()
	for _, a := range out {
		a.Close()
		e.board.detach(a)
	}
}

// forgetPeerRelays makes room for what the peer tells of itself anew.
func (e *endpoint) forgetPeerRelays() {
	to := e.link.Remote()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.relays.peers = slices.DeleteFunc(e.relays.peers, func(c signal.Candidate) bool { return c.Addr != to })
	var addrs []netip.AddrPort
	for _, c := range e.relays.peers {
		if c.Type == signal.CandidateType(punch.Relay) {
			addrs = append(addrs, c.Addr)
		}
	}
	e.relays.addrs.Store(&addrs)
}

func (e *endpoint) closeRelays() {
	e.stopRelays()
	e.mu.Lock()
	allocs := e.relays.allocs
	e.relays.allocs = nil
	e.mu.Unlock()
	for _, a := range allocs {
		e.wg.Go(func() { a.Close() })
	}
}
