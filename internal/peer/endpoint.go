package peer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"adit/internal/event"
	"adit/internal/handshake"
	"adit/internal/link"
	"adit/internal/portmap"
	"adit/internal/punch"
	"adit/reliable"
	"adit/signal"
)

// An endpoint is this side's half of a path: sockets, receiver index, candidates, ICE agent.
type endpoint struct {
	cfg   Config
	host  *punch.Host
	mux   *link.Mux
	index uint32
	seed  [16]byte // ICE user fragment and password derive from it
	wg    sync.WaitGroup

	gathered chan struct{} // closed when no further candidate will come but of the router
	mapper   *portmap.Mapper

	mu         sync.Mutex
	candidates []punch.Candidate
	remote     []punch.CandidateType // of the peer's
	onCand     func(punch.Candidate) // told of each candidate from now on
	agent      *punch.Agent
	link       *link.Link
	streams    *reliable.Session
	up         event.Event        // the last Up event, to tell again when an interruption ends
	cancel     context.CancelFunc // stops gathering
}

// open opens the sockets and starts to gather.
func open(cfg Config, stun []string) (*endpoint, error) {
	host, err := punch.Listen(punch.Config{Port: cfg.Port, STUN: stun, Loopback: cfg.Loopback, Logger: cfg.Logger})
	if err != nil {
		return nil, failf(ClassOther, "choose another --port, or none", err, "%v", err)
	}
	e := &endpoint{cfg: cfg, host: host, mux: link.NewMux(), gathered: make(chan struct{})}
	host.SetHandler(e.mux.Deliver)
	if e.index, err = e.mux.Reserve(); err != nil {
		host.Close()
		return nil, err
	}
	rand.Read(e.seed[:])
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	cfg.Events.Emit(event.Event{Name: event.Gathering})
	e.wg.Go(func() {
		defer close(e.gathered)
		if err := host.Gather(ctx, e.found); err != nil && ctx.Err() == nil {
			cfg.Logger.Info("gathering ended early", "err", err)
		}
	})
	if cfg.PortMapping && !cfg.Loopback {
		e.mapper = portmap.Open(portmap.Config{Port: host.Port(), Logger: cfg.Logger}, e.portMapped)
	}
	return e, nil
}

// portMapped is told of the public port that the router forwards to this side's. To ICE it is like an
// address that a STUN server saw, only that everybody may send to it.
func (e *endpoint) portMapped(m portmap.Mapping) {
	if !m.Public() {
		e.cfg.Logger.Info("the router's own address is not public: it is behind another NAT", "protocol", m.Protocol, "external", m.External)
		return
	}
	e.found(punch.Candidate{Type: punch.ServerReflexive, Addr: m.External})
}

func (e *endpoint) found(c punch.Candidate) {
	e.mu.Lock()
	e.candidates = append(e.candidates, c)
	tell := e.onCand
	e.mu.Unlock()
	if tell != nil {
		tell(c)
	}
}

// description is what the peer must know, with the candidates found so far. Those found later go to
// tell, which may be nil.
func (e *endpoint) description(tell func(punch.Candidate)) signal.Description {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.onCand = tell
	d := signal.Description{Index: e.index, Seed: e.seed, Targets: e.cfg.Targets}
	for _, c := range e.candidates {
		d.Candidates = append(d.Candidates, toSignal(c))
	}
	return d
}

// settle waits until gathering is over.
func (e *endpoint) settle(ctx context.Context) error {
	select {
	case <-e.gathered:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// settleAll is settle for a line that cannot be amended later: it gives the router a moment too.
func (e *endpoint) settleAll(ctx context.Context) error {
	if err := e.settle(ctx); err != nil || e.mapper == nil {
		return err
	}
	t := time.NewTimer(mapFor)
	defer t.Stop()
	select {
	case <-e.mapper.Tried():
	case <-t.C:
	case <-ctx.Done():
		return context.Cause(ctx)
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
func (e *endpoint) check(remote signal.Description, keys *handshake.Result, controlling, patient bool, control func([]byte)) error {
	l, err := e.mux.Open(link.Config{
		Socket: e.host, LocalIndex: e.index, RemoteIndex: remote.Index,
		SendKey: keys.Send, RecvKey: keys.Recv, AES: keys.Suite == handshake.AES256GCM,
		ReceiveBuffer: e.host.ReceiveBuffer(), DontFragment: e.host.DontFragment(),
		OnControl: control, OnState: e.state, Logger: e.cfg.Logger,
	})
	if err != nil {
		return fmt.Errorf("open link: %w", err)
	}
	a, err := e.host.NewAgent(punch.AgentConfig{
		Local: punch.CredentialsFromSeed(e.seed), Controlling: controlling, Patient: patient,
	})
	if err != nil {
		l.Close("")
		return fmt.Errorf("start ICE: %w", err)
	}
	// The streams are there before the path is: the peer may be up, and send, half a round trip
	// earlier than this side.
	e.mu.Lock()
	e.link, e.agent = l, a
	e.streams = reliable.NewSession(l, reliable.Config{Initiator: controlling, Logger: e.cfg.Logger})
	e.mu.Unlock()
	if err := a.SetRemote(punch.CredentialsFromSeed(remote.Seed)); err != nil {
		return fmt.Errorf("start ICE: %w", err)
	}
	e.remoteCandidates(remote.Candidates)
	e.cfg.Events.Emit(event.Event{Name: event.Checking})
	return nil
}

// remoteCandidates hands the agent what the peer found. One that it refuses is the peer's loss.
func (e *endpoint) remoteCandidates(cs []signal.Candidate) {
	for _, c := range cs {
		e.mu.Lock()
		e.remote = append(e.remote, punch.CandidateType(c.Type))
		e.mu.Unlock()
		if err := e.agent.AddRemote(toPunch(c)); err != nil {
			e.cfg.Logger.Debug("remote candidate refused", "candidate", c.Addr, "err", err)
		}
	}
}

// connect returns when a sealed probe came back over the pair that ICE selected.
func (e *endpoint) connect(ctx context.Context, limit time.Duration) (punch.Pair, time.Duration, error) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, errChecked)
		defer cancel()
	}
	pair, err := e.agent.Connect(ctx)
	if err != nil && stopped(ctx, limit) {
		return pair, 0, context.Cause(ctx)
	}
	if err != nil {
		return pair, 0, e.noPath(err)
	}
	rtt, err := e.link.Probe(ctx, pair.Remote.Addr)
	if err != nil && stopped(ctx, limit) {
		return pair, 0, context.Cause(ctx)
	}
	if err != nil {
		if end := e.link.Err(); end != nil && !errors.Is(end, net.ErrClosed) {
			err = end
		}
		return pair, 0, failf(ClassNoPath, "look for a firewall between the two that lets STUN pass and nothing else", err, "no path: ICE chose %v, and no sealed probe came back over it", pair.Remote)
	}
	e.link.Use(pair.Remote.Addr)
	return pair, rtt, nil
}

// noPath is the verdict when no connectivity check succeeded, from what both sides found.
func (e *endpoint) noPath(err error) *Error {
	e.mu.Lock()
	local := make([]punch.CandidateType, 0, len(e.candidates))
	for _, c := range e.candidates {
		local = append(local, c.Type)
	}
	remote := e.remote
	e.mu.Unlock()
	message := fmt.Sprintf("no path: no connectivity check between this side's %s and the other side's %s was answered",
		addresses(len(local)), addresses(len(remote)))
	hint := "on either router forward a UDP port to the machine behind it and use it with --port"
	switch {
	case len(local) == 0:
		message, hint = "no path: this machine has no address to be reached at", "connect it to a network"
	case len(remote) == 0:
		message, hint = "no path: the other side has no address to be reached at", "connect the other machine to a network"
	case !slices.Contains(local, punch.ServerReflexive) && !slices.Contains(remote, punch.ServerReflexive):
		message += ", and neither knows its public one"
		hint = "name a STUN server that both sides reach with --stun, or let UDP out of their firewalls"
	case !slices.Contains(local, punch.ServerReflexive):
		message += ", and no STUN server told this side its public one"
		hint = "let UDP out of this side's firewall, or name a STUN server that it reaches with --stun"
	case !slices.Contains(remote, punch.ServerReflexive):
		message += ", and no STUN server told the other side its public one"
		hint = "let UDP out of the other side's firewall, or name a STUN server that it reaches with --stun there"
	}
	return failf(ClassNoPath, hint, err, "%s", message)
}

func addresses(n int) string {
	if n == 1 {
		return "1 address"
	}
	return fmt.Sprintf("%d addresses", n)
}

// stopped reports whether ctx ended for another reason than the limit on connectivity checks.
func stopped(ctx context.Context, limit time.Duration) bool {
	return ctx.Err() != nil && !(limit > 0 && errors.Is(context.Cause(ctx), errChecked))
}

func (e *endpoint) state(s link.State) {
	e.mu.Lock()
	up := e.up
	e.mu.Unlock()
	switch {
	case s == link.Interrupted:
		e.cfg.Events.Emit(event.Event{Name: event.Interrupted})
	case s == link.Up && up.Name != "":
		up.RTT = float64(e.link.RTT().Microseconds()) / 1000
		e.cfg.Events.Emit(up)
	}
}

func (e *endpoint) closeAgent() {
	e.mu.Lock()
	a := e.agent
	e.agent = nil
	e.mu.Unlock()
	if a != nil {
		a.Close()
	}
}

// Close ends the agent, the streams, the link and the sockets, in that order, and waits for what it
// started.
func (e *endpoint) Close() error {
	e.cancel()
	if e.mapper != nil {
		e.wg.Go(func() { e.mapper.Close() }) // it may take a second to remove the mapping
	}
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
	err := e.host.Close()
	e.wg.Wait()
	return err
}

func toSignal(c punch.Candidate) signal.Candidate {
	return signal.Candidate{Type: signal.CandidateType(c.Type), Addr: c.Addr, Priority: c.Priority}
}

func toPunch(c signal.Candidate) punch.Candidate {
	return punch.Candidate{Type: punch.CandidateType(c.Type), Addr: c.Addr, Priority: c.Priority}
}
