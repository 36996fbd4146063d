package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	// maxAddrs is how many addresses of one name are tried.
	maxAddrs = 8

	// A peer that is refused again and again does not fill the log: so many at once, then one in a while.
	refusalBurst = 10
	refusalEvery = 10 * time.Second
)

// A Gate holds one session to a policy, which may be replaced while the session runs. It counts the
// session's streams, and logs what it refuses with the peer's name. Its methods may be called from
// many goroutines. A nil *Gate refuses everything.
type Gate struct {
	peer string
	log  *slog.Logger

	policy atomic.Pointer[Policy]
	open   atomic.Int64

	lines   *rate.Limiter
	skipped atomic.Int64 // refusals since the last line

	testOnlyLookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

// NewGate returns a gate for the session with the named peer, "" after a meeting by code or pasted
// line. The logger may be nil.
func NewGate(peer string, p Policy, log *slog.Logger) *Gate {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	g := &Gate{peer: peer, log: log, lines: rate.NewLimiter(rate.Every(refusalEvery), refusalBurst)}
	g.policy.Store(&p)
	return g
}

// Set replaces the policy. Streams and listeners that are there stay; the next ones are held to p.
func (g *Gate) Set(p Policy) { g.policy.Store(&p) }

// Policy returns the policy in force.
func (g *Gate) Policy() *Policy {
	if g == nil {
		return &Policy{}
	}
	return g.policy.Load()
}

// Peer returns the peer's name, or "".
func (g *Gate) Peer() string {
	if g == nil {
		return ""
	}
	return g.peer
}

// Allows is Policy.Allows, and logs a refusal.
func (g *Gate) Allows(d Direction, target string) error {
	return g.refuse(d, target, g.Policy().Allows(d, target))
}

// Enter counts one more stream or flow, until leave is called, which has to be once; or it returns a
// *RefusedError because the peer has as many as it may.
func (g *Gate) Enter() (leave func(), err error) {
	if g == nil {
		return func() {}, nil // no stream gets farther than that
	}
	most := int64(g.Policy().MaxStreams)
	if n := g.open.Add(1); most > 0 && n > most {
		g.open.Add(-1)
		return nil, g.refuse(Local, "", &RefusedError{CodeRefused, fmt.Sprintf("no more streams at once are allowed than %d: the rule \"streams\"", most)})
	}
	return sync.OnceFunc(func() { g.open.Add(-1) }), nil
}

// Addresses returns what to dial for target, "host:port" each, in the order to try, or a
// *RefusedError: the name itself where the policy has it by name, and where it has networks, those of
// the name's addresses that are in them. Dialling these and nothing else, a name that resolves
// differently the next moment leads nowhere. What cannot be resolved is CodeUnreachable. For a unix
// socket it is the path.
func (g *Gate) Addresses(ctx context.Context, d Direction, target string) ([]string, error) {
	p := g.Policy()
	at, err := parsePlace(target, false)
	if err != nil {
		return nil, g.refuse(d, target, &RefusedError{CodeUsage, err.Error()})
	}
	if t, ok := p.named(at); ok && p.match(d, at) == matchYes {
		at.Target = t
	}
	if at.Path != "" {
		return []string{at.Path}, g.Allows(d, target)
	}
	port := strconv.Itoa(at.Port)
	switch p.match(d, at) {
	case matchYes:
		return at.addresses(), nil
	case matchNone:
		return nil, g.refuse(d, target, p.refusal(d, at))
	}
	addrs, err := g.lookup(ctx, at.Host)
	if err != nil {
		return nil, &RefusedError{CodeUnreachable, at.String() + " cannot be reached: " + plain(err)}
	}
	asked := at
	var out []string
	for _, a := range addrs[:min(len(addrs), maxAddrs)] {
		at.Host = a.Unmap().String()
		if p.match(d, at) == matchYes {
			out = append(out, net.JoinHostPort(at.Host, port))
		}
	}
	if len(out) == 0 {
		return nil, g.refuse(d, target, p.refusal(d, asked))
	}
	return out, nil
}

func (g *Gate) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if host == "localhost" {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	if g.testOnlyLookup != nil {
		return g.testOnlyLookup(ctx, host)
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// refuse logs err if it is a refusal, and returns it.
func (g *Gate) refuse(d Direction, target string, err error) error {
	var refused *RefusedError
	if g == nil || !errors.As(err, &refused) {
		return err
	}
	if !g.lines.Allow() {
		g.skipped.Add(1)
		return err
	}
	peer := g.peer
	if peer == "" {
		peer = "a peer without a name"
	}
	attrs := []any{slog.String("peer", peer), slog.String("direction", string(d)), slog.String("target", printable(target)), slog.String("reason", printable(refused.Reason))}
	if n := g.skipped.Swap(0); n > 0 {
		attrs = append(attrs, slog.Int64("not logged", n))
	}
	g.log.Warn("refused", attrs...)
	return err
}
