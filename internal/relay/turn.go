package relay

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"adit/internal/stunmsg"
)

// What a TURN server allows if its TURNConfig does not say.
const (
	DefaultMinPort       = 49152
	DefaultMaxPort       = 65535
	DefaultPerCredential = 4  // IPv4 and IPv6, and the next ones while the last ones end
	DefaultPerSource     = 32 // people behind one address
	DefaultAllocations   = 4096
	DefaultIdle          = 30 * time.Minute
)

const (
	realm = "adit"

	defaultLifetime = 10 * time.Minute // RFC 8656 section 3.2
	maxLifetime     = time.Hour
	sweepEvery      = 5 * time.Second
	portTries       = 64 // random ports that are tried for an allocation
	minSecret       = 16

	givenBack = "given back" // why an allocation ended whose client asked for it
)

// ErrSecret is a secret that can be guessed.
var ErrSecret = fmt.Errorf("a secret has at least %d bytes", minSecret)

// TURNConfig says how a TURN server behaves. Secret is required.
type TURNConfig struct {
	// Secret makes the passwords: see Password. At least 16 bytes.
	Secret []byte
	// Addrs are the addresses that relayed addresses are on, as clients and peers know them: one of a
	// family at most. One that no interface has is that of a NAT with the same ports on both sides. For a
	// family that is missing it is the address that the client reached, or one that an interface has.
	Addrs []netip.Addr
	// MinPort and MaxPort bound the ports of relayed addresses; 49152 and 65535 if 0.
	MinPort, MaxPort uint16
	// Allow opens ranges that nothing is relayed to otherwise: private networks, say. This machine's own
	// addresses have to be named one by one, or as a loopback range.
	Allow []netip.Prefix
	// PerCredential, PerSource and Allocations bound how many allocations there are for a username, for
	// an IPv4 address or IPv6 /56 of clients, and in all; 4, 32 and 4096 if 0.
	PerCredential, PerSource, Allocations int
	// Rate bounds what one side of a room relays each way, SourceRate what one address of clients does, and TotalRate
	// what all relay together both ways, in bytes of payload a second. What is above it is dropped. 0 is no bound.
	Rate, SourceRate, TotalRate int
	// Volume, SourceVolume and TotalVolume bound the same in bytes a day, both ways together. 0 is no bound.
	Volume, SourceVolume, TotalVolume int
	// Idle is how long an allocation that relays nothing lives; 30 minutes if 0.
	Idle time.Duration
	// Logger hears of allocations (debug), of what a side has relayed when its last one ends (info), and when there is
	// no room for more; nil is silent. Nothing is logged per packet, and no address.
	Logger *slog.Logger
}

// TURN is a TURN server (RFC 8656) for UDP relayed addresses. Clients reach it over UDP at a STUN server
// whose Config names it, and over TCP and TLS at the listeners that are given to Serve. Its methods may be
// called from any goroutine.
type TURN struct {
	cfg    TURNConfig
	log    *slog.Logger
	policy *peerPolicy
	nonces nonces
	total  *account
	now    func() time.Time
	start  time.Time // what lifetimes are counted from: by the monotonic clock, which nobody sets

	closed chan struct{}
	close  sync.Once
	wg     sync.WaitGroup
	full   sync.Once // the log line about no room

	traffic                 [len(transports)]traffic
	authFailures, forbidden atomic.Uint64

	mu          sync.RWMutex
	ended       bool
	allocations map[fiveTuple]*allocation
	relayed     map[netip.AddrPort]*allocation
	// relayIPs are addresses that relayed ones are on, or were: permissions outlive the allocation that they were
	// given for, and what is sent by one must be asked about still.
	relayIPs    map[netip.Addr]bool
	count       int                 // allocations, and those being made
	users       map[string]*account // by identity
	sources     map[netip.Prefix]*account
	pairs       map[string]*pair
	others      map[netip.Addr]bool // where other relays are
	streams     map[*stream]struct{}
	streamsFrom map[netip.Prefix]int
	listeners   map[net.Listener]struct{}
}

// NewTURN returns a TURN server that nobody can reach yet. The caller closes it, and whatever it passed it
// to before. Errors: ErrSecret, what is wrong with the configuration, or that the addresses of this machine, which
// nothing is relayed to, cannot be listed.
func NewTURN(cfg TURNConfig) (*TURN, error) { return newTURN(cfg, time.Now) }

func newTURN(cfg TURNConfig, now func() time.Time) (*TURN, error) {
	if len(cfg.Secret) < minSecret {
		return nil, fmt.Errorf("start turn: %w", ErrSecret)
	}
	or := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	or(&cfg.PerCredential, DefaultPerCredential)
	or(&cfg.PerSource, DefaultPerSource)
	or(&cfg.Allocations, DefaultAllocations)
	if cfg.MinPort == 0 {
		cfg.MinPort = DefaultMinPort
	}
	if cfg.MaxPort == 0 {
		cfg.MaxPort = DefaultMaxPort
	}
	if cfg.MinPort > cfg.MaxPort {
		return nil, fmt.Errorf("start turn: ports %d-%d are no range", cfg.MinPort, cfg.MaxPort)
	}
	if cfg.Idle <= 0 {
		cfg.Idle = DefaultIdle
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	t := &TURN{
		cfg: cfg, log: cfg.Logger, policy: newPeerPolicy(cfg.Allow, cfg.Addrs), total: newAccount(cfg.TotalRate, cfg.TotalVolume),
		now: now, start: now(),
		closed:      make(chan struct{}),
		allocations: make(map[fiveTuple]*allocation),
		relayed:     make(map[netip.AddrPort]*allocation),
		relayIPs:    make(map[netip.Addr]bool),
		users:       make(map[string]*account),
		sources:     make(map[netip.Prefix]*account),
		pairs:       make(map[string]*pair),
		streams:     make(map[*stream]struct{}),
		streamsFrom: make(map[netip.Prefix]int),
		listeners:   make(map[net.Listener]struct{}),
	}
	t.total.down = t.total.up // both ways together
	for i, ip := range cfg.Addrs {
		if !ip.IsValid() || ip.IsUnspecified() || ip.Zone() != "" || i > 0 && ip.Unmap().Is4() == cfg.Addrs[0].Unmap().Is4() || i > 1 {
			return nil, fmt.Errorf("start turn: relayed addresses %v: want one of a family at most", cfg.Addrs)
		}
		t.relayIPs[ip.Unmap()] = true
	}
	if err := t.policy.look(t.start); err != nil {
		return nil, fmt.Errorf("start turn: it must not relay to this machine itself: %w", err)
	}
	rand.Read(t.nonces.key[:])
	t.wg.Go(t.sweep)
	return t, nil
}

func newRate(bytes int) *rate.Limiter {
	if bytes <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(bytes), max(bytes/8, 64<<10))
}

// transports are how clients come.
var transports = [...]string{"udp", "tcp", "tls"}

// traffic is what clients of one transport had relayed.
type traffic struct{ bytes, packets, dropped atomic.Uint64 }

// Stats returns what the relay has done so far.
func (t *TURN) Stats() Stats {
	s := Stats{
		Bytes: make(map[string]uint64), Packets: make(map[string]uint64), Dropped: make(map[string]uint64),
		AuthFailures: t.authFailures.Load(), Forbidden: t.forbidden.Load(),
	}
	for i, name := range transports {
		f := &t.traffic[i]
		s.Bytes[name], s.Packets[name], s.Dropped[name] = f.bytes.Load(), f.packets.Load(), f.dropped.Load()
	}
	return s
}

// Allocations returns how many there are.
func (t *TURN) Allocations() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.allocations)
}

// Close ends all allocations, closes what was given to Serve, and waits for its goroutines.
func (t *TURN) Close() error {
	var errs []error
	t.close.Do(func() {
		close(t.closed)
		t.mu.Lock()
		t.ended = true
		var ending []*allocation
		for _, a := range t.allocations {
			ending = append(ending, a)
		}
		for s := range t.streams {
			_ = s.conn.SetReadDeadline(time.Now()) // its reader ends and does the rest
		}
		for l := range t.listeners {
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
		t.mu.Unlock()
		for _, a := range ending {
			t.end(a, "the server ends")
		}
	})
	t.wg.Wait()
	return errors.Join(errs...)
}

// sweep ends allocations whose time is over.
func (t *TURN) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-t.closed:
			return
		case <-tick.C:
			t.expire(t.now())
		}
	}
}

// since returns how long the server had been up at the time now.
func (t *TURN) since(now time.Time) time.Duration { return now.Sub(t.start) }

func (t *TURN) expire(now time.Time) {
	var over, idle []*allocation
	t.mu.RLock()
	for _, a := range t.allocations {
		if at := int64(t.since(now)); at >= a.expires.Load() {
			over = append(over, a)
		} else if at-a.active.Load() > int64(t.cfg.Idle) {
			idle = append(idle, a)
		}
	}
	t.mu.RUnlock()
	for _, a := range over {
		t.end(a, "expired")
	}
	for _, a := range idle {
		t.end(a, "idle")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetLocked(now)
}

// A fiveTuple is what an allocation belongs to (RFC 8656 section 2): the socket or the connection, and
// for a socket the addresses at both ends.
type fiveTuple struct {
	sock   *socket
	conn   *stream
	remote netip.AddrPort
	local  netip.Addr
}

// find returns the allocation of a five-tuple, or nil.
func (t *TURN) find(k fiveTuple) *allocation {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.allocations[k]
}

// packet takes in one packet of a client: data[headroom:] is the packet, and data has room for
// padding behind it. It returns a response, made in out, or nothing. limit is for those who have not
// shown that they are where they say; nil is no limit.
func (t *TURN) packet(c *client, data, out []byte, limit *limiter) []byte {
	b := data[headroom:]
	now := t.now()
	if stunmsg.IsChannelData(b) {
		if a := t.find(c.key()); a != nil {
			a.channelData(data, now)
		}
		return nil
	}
	if response := respond(out[:0], b, c.addr); len(response) > 0 {
		return response // over a stream: of the rest Config.TURN's server has seen to it
	}
	var m message
	if !parse(b, &m) {
		return nil
	}
	switch {
	case m.class == classIndication && m.method == methodSend:
		if a := t.find(c.key()); a != nil {
			a.sendIndication(data, &m, now)
		}
		return nil
	case m.class != classRequest:
		return nil
	}
	switch m.method {
	case methodAllocate, methodRefresh, methodCreatePermission, methodChannelBind:
	default:
		return nil
	}
	user, key, refusal := t.authenticate(c, &m, b, now)
	if refusal != 0 {
		if m.integrityAt != 0 && refusal == codeUnauthorized {
			t.authFailures.Add(1)
		}
		if limit != nil && !limit.allow(c.addr.Addr(), now) {
			return nil
		}
		r := answer(out, &m, classFailure)
		r.fail(refusal)
		if refusal == codeUnauthorized || refusal == codeStaleNonce {
			nonce := t.nonces.make(c.addr, now)
			r.attr(stunmsg.Realm, []byte(realm))
			r.attr(stunmsg.Nonce, nonce[:])
		}
		return r.done(nil)
	}
	t.asked(user, c.addr.Addr(), now)
	r := answer(out, &m, classSuccess)
	if code := t.serve(c, &m, string(user), now, &r); code != 0 {
		r = answer(out, &m, classFailure)
		r.fail(code)
		if code == codeUnknownAttribute {
			r.unknown(m.unknown[:m.nunknown])
		}
	}
	return r.done(&key)
}

// serve does what an authenticated request asks for. It returns an error code, or 0 and the attributes of
// the success in r.
func (t *TURN) serve(c *client, m *message, user string, now time.Time, r *reply) int {
	switch {
	case m.nunknown > 0:
		return codeUnknownAttribute
	case m.bad:
		return codeBadRequest
	case m.method == methodAllocate:
		return t.allocate(c, m, user, now, r)
	}
	a := t.find(c.key())
	switch {
	case a == nil:
		return codeMismatch
	case a.user != user:
		return codeWrongCredentials
	case m.method == methodRefresh:
		return t.refresh(a, m, now, r)
	case m.method == methodCreatePermission:
		return a.createPermissions(m, now)
	}
	return a.bindChannel(m, now)
}
