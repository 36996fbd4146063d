package peer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/event"
	"adit/internal/handshake"
	"adit/internal/history"
	"adit/internal/link"
	"adit/internal/portmap"
	"adit/internal/punch"
	"adit/reliable"
	"adit/signal"

	"golang.org/x/time/rate"
)

// An endpoint is this side's half of a path: sockets, receiver index, candidates, ICE agent.
type endpoint struct {
	cfg     Config
	base    *base
	host    *punch.Host // of base
	mux     *link.Mux   // of base
	index   uint32
	seed    [16]byte // ICE user fragment and password derive from it
	board   *switchboard
	wg      sync.WaitGroup
	closing sync.Once
	closed  error           // what Close returned
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc

	relaying   context.Context // ends when the link has said goodbye
	stopRelays context.CancelFunc

	controlling bool                // ICE's role, set by check
	revealed    chan []byte         // capacity 1
	chosen      chan netip.AddrPort // capacity 1: where the controlling side's choice came from
	searched    chan struct{}       // closed when no direct path is looked for any more

	died atomic.Pointer[Error] // not nil: the peer's process has, or it floods, and this side has closed the link for that

	offers *rate.Limiter // of the peer

	fresh *fresh        // ends the search for addresses when the network changed, until there is a roamer
	roams chan struct{} // closed when there is one
	nat   *natTalk
	past  history.Entry // what worked before; constant

	mu         sync.Mutex
	gathered   chan struct{} // closed when no further candidate will come but of the router; another one in another network
	stale      bool          // the network changed, and nobody has looked at that yet
	candidates []punch.Candidate
	remote     []punch.Candidate     // the peer's
	hosts      []netip.AddrPort      // addresses of the peer's own
	onCand     func(punch.Candidate) // told of each candidate from now on
	agent      *punch.Agent
	link       *link.Link
	streams    *reliable.Session
	up         event.Event // the last Up event, to tell again when an interruption ends
	relays     relays

	interrupted bool            // the link's state
	roamer      *roamer         // once the path is up
	mapped      punch.Candidate // by the router; invalid if not
	unnamed     uint16          // port of a router that does not tell its address; 0 for none
	told        netip.AddrPort  // where the last Up event said that packets go
	direct      netip.AddrPort  // the last direct path
	burst       bool            // one found a hole
	worked      history.Entry   // to be remembered
}

// open opens the sockets, unless those of cfg.base are to be used, and starts to gather.
func open(cfg Config, stun []string) (*endpoint, error) {
	b := cfg.base
	if b != nil {
		b.use()
	} else {
		var err error
		if b, err = newBase(cfg, stun); err != nil {
			return nil, err
		}
	}
	e := &endpoint{
		cfg: cfg, base: b, host: b.host, mux: b.mux, gathered: make(chan struct{}), nat: newNATTalk(), fresh: newFresh(), roams: make(chan struct{}),
		revealed: make(chan []byte, 1), chosen: make(chan netip.AddrPort, 1), searched: make(chan struct{}),
		offers: rate.NewLimiter(offerRate, offerBurst),
	}
	e.board = newSwitchboard(e.host, e.mux, e.heard, e.probeRelay)
	var err error
	if e.index, err = e.mux.Reserve(); err != nil {
		_ = b.release() // the first error tells more
		return nil, err
	}
	rand.Read(e.seed[:])
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.relaying, e.stopRelays = context.WithCancel(context.Background())
	e.past = recall(cfg)
	b.join(e)
	cfg.Events.Emit(event.Event{Name: event.Gathering})
	if cfg.Path == PathRelay {
		close(e.gathered) // the peer must not learn any other address
		return e, nil
	}
	e.wg.Go(e.gather)
	return e, nil
}

// gather looks for this side's addresses, and again in another network for as long as there is no roamer, who does so
// from then on.
func (e *endpoint) gather() {
	for {
		ctx, done := e.fresh.with(e.ctx)
		if err := e.base.gather(ctx, gatherFresh, e.found); err != nil && ctx.Err() == nil {
			e.cfg.Logger.Info("gathering ended early", "err", err)
		}
		if ctx.Err() == nil {
			e.nat.measured(e.base.nat(ctx))
		}
		e.endGathering(ctx)
		select {
		case <-ctx.Done():
		case <-e.roams:
		}
		done()
		if !e.moved() {
			return
		}
		e.forgetNetwork()
	}
}

// endGathering says that all candidates are there, unless they are of another network.
func (e *endpoint) endGathering(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if ctx.Err() == nil || e.ctx.Err() != nil {
		closeOnce(e.gathered)
	}
}

// moved reports whether the network changed, and nobody else looks after that.
func (e *endpoint) moved() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() != nil || e.roamer != nil || !e.stale {
		return false
	}
	e.stale = false
	select {
	case <-e.gathered:
		e.gathered = make(chan struct{})
	default: // who waits goes on waiting
	}
	return true
}

// closeOnce closes c if it is open. The caller sees to it that nobody else does.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// networkChanged is told that this machine is in another network, or may be.
func (e *endpoint) networkChanged() {
	e.mu.Lock()
	waits := e.roamer == nil
	e.stale = e.stale || waits // whoever comes first sees it: gather, or the roamer that is about to be
	e.mu.Unlock()
	if waits {
		e.fresh.changed()
		return
	}
	e.tell(func(r *roamer) { r.network = true })
}

// waits reports whether there is no path yet.
func (e *endpoint) waits() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.roamer == nil
}

// heard returns how many authentic packets have come.
func (e *endpoint) heard() uint64 {
	e.mu.Lock()
	l := e.link
	e.mu.Unlock()
	if l == nil {
		return 0
	}
	return l.Stats().ReceivedPackets
}

// portMapped is told of the public port that the router forwards to this side's. To ICE it is like an
// address that a STUN server saw, only that everybody may send to it.
func (e *endpoint) portMapped(m portmap.Mapping) {
	if e.cfg.Path == PathRelay {
		return
	}
	c := punch.Candidate{Type: punch.ServerReflexive, Addr: m.External}
	e.mu.Lock()
	e.candidates = slices.DeleteFunc(e.candidates, func(o punch.Candidate) bool { return o == e.mapped })
	e.mapped, e.unnamed = c, 0
	if m.Unnamed() {
		e.mapped, e.unnamed = punch.Candidate{}, m.External.Port()
	}
	known := slices.Clone(e.candidates)
	e.mu.Unlock()
	if !m.Unnamed() {
		e.found(c)
		return
	}
	for _, o := range known {
		e.nameMapped(o)
	}
}

// nameMapped completes a mapping of a router that does not tell its address by the one that a STUN server saw.
func (e *endpoint) nameMapped(seen punch.Candidate) {
	e.mu.Lock()
	c := punch.Candidate{Type: punch.ServerReflexive, Addr: netip.AddrPortFrom(seen.Addr.Addr(), e.unnamed)}
	if e.unnamed == 0 || seen.Type != punch.ServerReflexive || !seen.Addr.Addr().Is4() || c.Addr == seen.Addr || c == e.mapped {
		e.mu.Unlock()
		return
	}
	e.candidates = slices.DeleteFunc(e.candidates, func(o punch.Candidate) bool { return o == e.mapped })
	e.mapped = c
	e.mu.Unlock()
	e.found(c)
}

// forgetNetwork drops what was found in a network that this machine has left, or may have left.
func (e *endpoint) forgetNetwork() {
	e.mu.Lock()
	e.candidates = slices.DeleteFunc(e.candidates, func(c punch.Candidate) bool { return c.Type != punch.Relay })
	e.mapped, e.unnamed = punch.Candidate{}, 0
	e.mu.Unlock()
	e.base.tellMapped(e) // the router that is there now may have been quick
}

func (e *endpoint) found(c punch.Candidate) {
	e.mu.Lock()
	known := slices.Contains(e.candidates, c)
	if !known {
		e.candidates = append(e.candidates, c)
	}
	tell := e.onCand
	e.mu.Unlock()
	if known {
		return
	}
	if tell != nil {
		tell(c)
	}
	e.nameMapped(c)
}

// description is what the peer must know, with the candidates found so far. Those found later go to
// tell, which may be nil.
func (e *endpoint) description(tell func(punch.Candidate)) signal.Description {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.onCand = tell
	d := signal.Description{Index: e.index, Seed: e.seed, Targets: e.cfg.Targets, NAT: e.nat.told()}
	for _, c := range e.candidates {
		d.Candidates = append(d.Candidates, toSignal(c))
	}
	return d
}

// settle waits until gathering is over.
func (e *endpoint) settle(ctx context.Context) error {
	e.mu.Lock()
	gathered := e.gathered
	e.mu.Unlock()
	select {
	case <-gathered:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// settleAll is settle for a line that cannot be amended later: it gives the router a moment too, and the relays, whose
// allocation relayed ends; nil if there is none.
func (e *endpoint) settleAll(ctx context.Context, relayed <-chan struct{}) error {
	mapped := e.base.tried()
	if err := e.settle(ctx); err != nil {
		return err
	}
	relay, router := time.NewTimer(relayedFor), time.NewTimer(mapFor)
	defer relay.Stop()
	defer router.Stop()
	for mapped != nil || relayed != nil {
		select {
		case <-mapped:
			mapped = nil
		case <-router.C:
			mapped = nil
		case <-relayed:
			relayed = nil
		case <-relay.C:
			relayed = nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// settleFor waits for the end of gathering, but no longer than d.
func (e *endpoint) settleFor(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	_ = e.settle(ctx) // what is missing is trickled
}

// check starts the ICE agent and the link for a peer whose description and keys are known.
func (e *endpoint) check(remote signal.Description, keys *handshake.Result, controlling, patient bool) error {
	e.controlling = controlling
	l, err := e.mux.Open(link.Config{
		Socket: e.board, Relayed: e.onRelay, LocalIndex: e.index, RemoteIndex: remote.Index,
		SendKey: keys.Send, RecvKey: keys.Recv, AES: keys.Suite == handshake.AES256GCM,
		ReceiveBuffer: e.host.ReceiveBuffer(), DontFragment: e.host.DontFragment(),
		DeadAfter: e.cfg.resumeTimeout(),
		OnControl: e.control, OnState: e.state, OnMove: e.pathMoved, OnRekey: e.rekeyed, Logger: e.cfg.Logger,
	})
	if err != nil {
		return fmt.Errorf("open link: %w", err)
	}
	keys.EraseLinkKeys()
	var a *punch.Agent
	if e.cfg.Path != PathRelay {
		if a, err = e.host.NewAgent(punch.AgentConfig{
			Local: punch.CredentialsFromSeed(e.seed), Controlling: controlling, Patient: patient,
		}); errors.Is(err, punch.ErrNoAddress) {
			e.cfg.Logger.Info("no direct path from here", "err", err)
			a = nil // a relay behind a proxy on this machine may be left
		} else if err != nil {
			l.Close("")
			return fmt.Errorf("start ICE: %w", err)
		}
	}
	// The streams are there before the path is: the peer may be up, and send, half a round trip
	// earlier than this side.
	e.mu.Lock()
	e.link, e.agent = l, a
	e.streams = reliable.NewSession(l, reliable.Config{Initiator: controlling, Budget: e.cfg.Budget, Logger: e.cfg.Logger})
	e.mu.Unlock()
	if a != nil {
		if err := a.SetRemote(punch.CredentialsFromSeed(remote.Seed)); err != nil {
			return fmt.Errorf("start ICE: %w", err)
		}
	}
	e.nat.describe(remote.NAT)
	e.remoteCandidates(remote.Candidates)
	e.cfg.Events.Emit(event.Event{Name: event.Checking})
	return nil
}

// remoteCandidates hands the agent what the peer found. One that it refuses is the peer's loss.
func (e *endpoint) remoteCandidates(cs []signal.Candidate) {
	for _, c := range cs {
		e.nat.see(c)
		e.knowHost(c)
		e.mu.Lock()
		e.remote = append(e.remote, toPunch(c))
		a := e.agent
		e.mu.Unlock()
		e.relayCandidate(c)
		if a == nil || c.Type == signal.CandidateType(punch.Relay) {
			continue // ICE checks direct paths only
		}
		if err := a.AddRemote(toPunch(c)); err != nil {
			e.cfg.Logger.Debug("remote candidate refused", "candidate", c.Addr, "err", err)
		}
	}
}

func (e *endpoint) state(s link.State) {
	e.tell(func(r *roamer) { r.state = s })
	e.mu.Lock()
	up, interrupted := e.up, e.interrupted
	e.interrupted = s == link.Interrupted || interrupted && s == link.Suspect
	if s == link.Up && interrupted {
		e.told = netip.AddrPort{} // the roamer tells where the path goes now
	}
	e.mu.Unlock()
	switch {
	case s == link.Interrupted:
		e.cfg.Events.Emit(event.Event{Name: event.Interrupted})
	case s == link.Up && interrupted && up.Name != "":
		e.tellUp(e.pathTo(e.link.Remote()))
	}
}

// pathMoved is told by the link that it sends to another address.
func (e *endpoint) pathMoved() { e.tell(func(r *roamer) { r.moved = true }) }

func (e *endpoint) closeAgent() {
	e.mu.Lock()
	a := e.agent
	e.agent = nil
	e.mu.Unlock()
	if a != nil {
		a.Close()
	}
}

// Close ends the agent, the streams, the link and, if nobody else uses them, the sockets, in that order, and
// waits for what it started. It may be called more than once.
func (e *endpoint) Close() error {
	e.closing.Do(func() { e.closed = e.close() })
	return e.closed
}

func (e *endpoint) close() error {
	e.cancel()
	e.base.leave(e)
	e.closeAgent()
	e.mu.Lock()
	l, streams := e.link, e.streams
	e.mu.Unlock()
	if streams != nil {
		streams.Close()
	}
	if l != nil {
		l.Close("")
	} else {
		e.mux.Release(e.index)
	}
	e.closeRelays()
	err := e.base.release()
	e.wg.Wait()
	return err
}

func toSignal(c punch.Candidate) signal.Candidate {
	return signal.Candidate{Type: signal.CandidateType(c.Type), Addr: c.Addr, Priority: c.Priority}
}

func toPunch(c signal.Candidate) punch.Candidate {
	return punch.Candidate{Type: punch.CandidateType(c.Type), Addr: c.Addr, Priority: c.Priority}
}
