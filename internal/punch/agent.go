package punch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pion/ice/v2"
)

// Errors of agents.
var (
	ErrFailed      = errors.New("no candidate pair works")
	ErrAddress     = errors.New("address cannot be used")
	ErrTooMany     = errors.New("too many remote candidates")
	ErrCredentials = errors.New("bad ice credentials")
	ErrStarted     = errors.New("agent was started already")
	ErrNoAddress   = errors.New("no network interface that is up has a usable address")
)

// maxRemote bounds how many addresses a peer can have checks sent to (RFC 8445 §19.5.1).
const maxRemote = 24

// AgentConfig says what an Agent is to do.
type AgentConfig struct {
	Local       Credentials // fresh ones for each agent
	Controlling bool        // of the two sides exactly one: the one whose offer was answered
	Patient     bool        // a person carries the answer over: checks go on for a day, four a second
}

// An Agent looks for one path to one peer: one generation. Any number of them can be on a Host. Its
// methods may be called from any goroutine.
type Agent struct {
	host        *Host
	mux         *agentMux
	ice         *ice.Agent
	controlling bool
	tie         uint64        // of the checks of bursts; roles are given, it decides nothing
	failed      chan struct{} // closed when ICE gave up
	failOnce    sync.Once
	closeOnce   sync.Once
	closed      chan struct{}

	mu      sync.Mutex
	remote  Credentials
	started bool
	known   map[netip.AddrPort]struct{} // remote candidates
}

// testOnlyFailed, if not zero, is how long pion checks before it gives up.
var testOnlyFailed time.Duration

// NewAgent makes an agent that answers checks once Connect is called. It returns ErrNoAddress while
// no network is there, and ErrCredentials if another agent of the Host has the same user fragment.
// Whoever made the agent closes it; closing the Host does too.
func (h *Host) NewAgent(cfg AgentConfig) (*Agent, error) {
	if err := checkCredentials(cfg.Local); err != nil {
		return nil, fmt.Errorf("local: %w", err)
	}
	a := &Agent{
		host: h, mux: newAgentMux(h.table, cfg.Local, !cfg.Controlling), controlling: cfg.Controlling,
		tie:    rand.Uint64(),
		failed: make(chan struct{}), closed: make(chan struct{}), known: make(map[netip.AddrPort]struct{}),
	}
	for i := range h.socks {
		s := h.sock(i)
		if s == nil {
			continue
		}
		if local, ok := h.base(s); ok {
			a.mux.attach(s, local)
		}
	}
	h.mu.Lock()
	ways := slices.Clone(h.ways)
	h.mu.Unlock()
	for _, s := range ways {
		a.mux.attach(s, s.bound)
	}
	if len(a.mux.GetListenAddresses()) == 0 {
		return nil, ErrNoAddress
	}
	err := a.start(cfg)
	if err == nil {
		h.mu.Lock()
		if h.closed {
			err = ErrClosed
		} else {
			h.agents[a] = struct{}{}
		}
		h.mu.Unlock()
	}
	if err != nil {
		_ = a.Close() // the first error tells more
		return nil, err
	}
	return a, nil
}

func (a *Agent) start(cfg AgentConfig) error {
	if !a.host.table.add(a.mux) {
		return fmt.Errorf("user fragment in use: %w", ErrCredentials)
	}
	var (
		zero         time.Duration
		disconnected = 6 * time.Second // a hint only: the layer above decides when a path is dead
		keepalive    = 5 * time.Second // RFC 7675 §5.1
		prflxWait    = 100 * time.Millisecond
		relayWait    = 1500 * time.Millisecond
		// Never 0, which fails as soon as disconnected has passed.
		failed   = 10 * time.Minute
		interval = 100 * time.Millisecond
		// Half a minute. The controlling side never takes up a pair again that it has given up.
		requests uint16 = 300
	)
	if cfg.Patient {
		failed, interval, requests = 24*time.Hour, 250*time.Millisecond, 65535
	}
	if testOnlyFailed != 0 {
		disconnected, failed = testOnlyFailed, testOnlyFailed
	}
	ia, err := ice.NewAgent(&ice.AgentConfig{
		UDPMux:                 a.mux,
		CandidateTypes:         []ice.CandidateType{ice.CandidateTypeHost},
		NetworkTypes:           []ice.NetworkType{ice.NetworkTypeUDP4, ice.NetworkTypeUDP6},
		DisableActiveTCP:       true,
		MulticastDNSMode:       ice.MulticastDNSModeDisabled,
		LocalUfrag:             cfg.Local.Ufrag,
		LocalPwd:               cfg.Local.Pwd,
		CheckInterval:          &interval,
		MaxBindingRequests:     &requests,
		DisconnectedTimeout:    &disconnected,
		FailedTimeout:          &failed,
		KeepaliveInterval:      &keepalive,
		HostAcceptanceMinWait:  &zero,
		SrflxAcceptanceMinWait: &zero,
		PrflxAcceptanceMinWait: &prflxWait,
		RelayAcceptanceMinWait: &relayWait,
		Net:                    sealedNet{},
		LoggerFactory:          pionLoggers{a.host.log},
	})
	if err != nil {
		return fmt.Errorf("make ice agent: %w", err)
	}
	a.ice = ia
	err = ia.OnConnectionStateChange(func(s ice.ConnectionState) {
		if s == ice.ConnectionStateFailed {
			a.failOnce.Do(func() { close(a.failed) })
		}
	})
	if err == nil {
		err = ia.OnCandidate(func(ice.Candidate) {}) // pion asks for it before it gathers
	}
	if err == nil {
		err = ia.GatherCandidates()
	}
	if err != nil {
		return fmt.Errorf("start ice agent: %w", err)
	}
	return nil
}

// SetRemote says what the peer calls itself and with what it authenticates. It comes before Connect
// and returns ErrCredentials for strings that RFC 8445 §5.3 does not allow.
func (a *Agent) SetRemote(c Credentials) error {
	if err := checkCredentials(c); err != nil {
		return fmt.Errorf("remote: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.isClosed():
		return ErrClosed
	case a.started:
		return ErrStarted
	}
	a.remote = c
	return nil
}

func checkCredentials(c Credentials) error {
	if len(c.Ufrag) < 4 || len(c.Ufrag) > 256 || len(c.Pwd) < 22 || len(c.Pwd) > 256 ||
		strings.Trim(c.Ufrag+c.Pwd, iceChars) != "" {
		return ErrCredentials
	}
	return nil
}

// AddRemote adds an address to check, before or after Connect was called. One that is known already
// is no error. It returns ErrAddress for an address that no peer can have (unspecified, multicast,
// broadcast, link-local, port 0, an own one, and loopback unless Config.Loopback) and ErrTooMany
// after 24.
func (a *Agent) AddRemote(c Candidate) error {
	c.Addr = netip.AddrPortFrom(c.Addr.Addr().Unmap().WithZone(""), c.Addr.Port())
	if c.Type > Relay {
		return fmt.Errorf("remote candidate %v: %w", c, ErrAddress)
	}
	if !usableRemote(c.Addr, a.host.cfg.Loopback) || !a.host.cfg.Loopback && a.host.isOwn(c.Addr) {
		return fmt.Errorf("remote candidate %v: %w", c, ErrAddress)
	}
	if c.Priority == 0 {
		c.Priority = priority(c.Type, c.Addr.Addr().Is6(), 0)
	}
	ic, err := c.pion()
	if err != nil {
		return fmt.Errorf("remote candidate %v: %w", c, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	_, known := a.known[c.Addr]
	switch {
	case a.isClosed():
		return ErrClosed
	case known:
		return nil
	case len(a.known) >= maxRemote:
		return fmt.Errorf("remote candidate %v: %w", c, ErrTooMany)
	}
	if err := a.ice.AddRemoteCandidate(ic); err != nil {
		return fmt.Errorf("remote candidate %v: %w", c, err)
	}
	a.known[c.Addr] = struct{}{}
	a.mux.expectFrom(c.Addr)
	return nil
}

// pion returns the candidate as pion knows it.
func (c Candidate) pion() (ice.Candidate, error) {
	const component = 1
	addr, port := c.Addr.Addr().String(), int(c.Addr.Port())
	switch c.Type {
	case HostCandidate:
		return ice.NewCandidateHost(&ice.CandidateHostConfig{
			Network: "udp", Address: addr, Port: port, Component: component, Priority: c.Priority})
	case ServerReflexive:
		return ice.NewCandidateServerReflexive(&ice.CandidateServerReflexiveConfig{
			Network: "udp", Address: addr, Port: port, Component: component, Priority: c.Priority})
	case PeerReflexive:
		return ice.NewCandidatePeerReflexive(&ice.CandidatePeerReflexiveConfig{
			Network: "udp", Address: addr, Port: port, Component: component, Priority: c.Priority})
	default:
		return ice.NewCandidateRelay(&ice.CandidateRelayConfig{
			Network: "udp", Address: addr, Port: port, Component: component, Priority: c.Priority})
	}
}

// isOwn reports whether an address is one of this host: two hosts on a machine differ by their port.
func (h *Host) isOwn(a netip.AddrPort) bool {
	h.mu.Lock()
	_, mapped := h.mapped[a]
	h.mu.Unlock()
	if mapped {
		return true
	}
	s := h.socks[family(a.Addr())]
	return s != nil && s.port == a.Port() && h.ownAddr(a.Addr())
}

// ownAddr reports whether an address is that of one of this machine's interfaces.
func (h *Host) ownAddr(a netip.Addr) bool {
	addrs, err := localAddrs(true)
	return err == nil && slices.Contains(addrs, a)
}

// Connect starts the checks and returns once ICE has selected a pair. The agent goes on answering
// and sending keepalives until it is closed. If ctx ends first, Connect returns the cause and the
// agent goes on too. ErrFailed says that ICE gave up, ErrClosed that the agent or the Host was
// closed, ErrCredentials that SetRemote is missing, ErrStarted that this is not the first call.
func (a *Agent) Connect(ctx context.Context) (Pair, error) {
	if err := ctx.Err(); err != nil {
		return Pair{}, context.Cause(ctx)
	}
	a.mu.Lock()
	remote, started := a.remote, a.started
	switch {
	case a.isClosed():
		a.mu.Unlock()
		return Pair{}, ErrClosed
	case remote.Ufrag == "":
		a.mu.Unlock()
		return Pair{}, fmt.Errorf("connect without those of the peer: %w", ErrCredentials)
	case started:
		a.mu.Unlock()
		return Pair{}, ErrStarted
	}
	a.started = true
	a.mu.Unlock()

	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-a.failed:
			cancel()
		case <-wait.Done():
		}
	}()
	var err error
	if a.controlling {
		_, err = a.ice.Dial(wait, remote.Ufrag, remote.Pwd)
	} else {
		_, err = a.ice.Accept(wait, remote.Ufrag, remote.Pwd)
	}
	cancel()
	<-watched
	if err != nil {
		switch {
		case a.isClosed() || errors.Is(err, ice.ErrClosed):
			return Pair{}, ErrClosed
		case ctx.Err() != nil:
			return Pair{}, context.Cause(ctx)
		case errors.Is(err, ice.ErrCanceledByCaller):
			return Pair{}, ErrFailed
		}
		return Pair{}, fmt.Errorf("%w: %v", ErrFailed, err)
	}
	return a.selected()
}

func (a *Agent) selected() (Pair, error) {
	p, err := a.ice.GetSelectedCandidatePair()
	if err != nil || p == nil {
		if a.isClosed() {
			return Pair{}, ErrClosed
		}
		return Pair{}, fmt.Errorf("selected pair is gone: %w", ErrFailed)
	}
	local, err := fromPion(p.Local)
	if err != nil {
		return Pair{}, err
	}
	remote, err := fromPion(p.Remote)
	if err != nil {
		return Pair{}, err
	}
	pair := Pair{local, remote}
	a.host.take(pair)
	return pair, nil
}

func fromPion(c ice.Candidate) (Candidate, error) {
	addr, err := netip.ParseAddr(c.Address())
	if err != nil {
		return Candidate{}, fmt.Errorf("candidate %v: %w", c, ErrAddress)
	}
	out := Candidate{Addr: netip.AddrPortFrom(addr.Unmap(), uint16(c.Port())), Priority: c.Priority()}
	switch c.Type() {
	case ice.CandidateTypeServerReflexive:
		out.Type = ServerReflexive
	case ice.CandidateTypePeerReflexive:
		out.Type = PeerReflexive
	case ice.CandidateTypeRelay:
		out.Type = Relay
	}
	return out, nil
}

func (a *Agent) isClosed() bool {
	select {
	case <-a.closed:
		return true
	default:
		return false
	}
}

// Close ends the checks and unblocks Connect. Packets that are not STUN go on arriving: they belong
// to the Host. It may be called more than once.
func (a *Agent) Close() error {
	var err error
	a.closeOnce.Do(func() {
		close(a.closed)
		if a.ice != nil {
			err = a.ice.GracefulClose()
		}
		_ = a.mux.Close() // cannot fail
		a.host.mu.Lock()
		delete(a.host.agents, a)
		a.host.mu.Unlock()
	})
	return err
}
