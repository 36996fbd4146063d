package rendezvous

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"adit/internal/fair"
)

// A standing is what is known of a connection: the less, the sooner it makes room for another.
type standing int

const (
	silent  standing = iota // has not sent a whole request yet
	guest                   // has sent one
	insider                 // has shown a good token, or holds an allocation on the relay
	standings
)

// silentShare is the part of all connections that is kept for those that have not sent a request: without it nobody
// could get in once all others are in use.
const silentShare = 8

// A gate bounds the connections of the listeners that it was put before.
//
//	accept ── too many a minute, or of one address: closed
//	  │
//	silent ── head of a request ──> guest ── good token ──> insider
//	  └────────────┴──── where all are in use the silent, the guests and the insiders of the
//	                     network that holds the most make room, in this order
type gate struct {
	limits  Limits
	limiter *limiter
	refused *refusals
	exempt  func(netip.Addr) bool // addresses of proxies, which stand for many
	turns   *turnstile

	mu    sync.Mutex
	conns [standings]fair.Pool[*gateConn]
}

// A gateConn is a connection that counts until it is closed.
type gateConn struct {
	net.Conn
	gate *gate
	from netip.Addr

	turn atomic.Int32 // of the handshake: see the constants

	// guarded by gate.mu
	standing standing
	member   *fair.Member[*gateConn] // nil once it is closed
}

// States of a connection's turn at the turnstile. It has one turn, which begins with the first bytes that come in and
// ends when more are wanted: the time that the first answer takes to compute, and with TLS that is the handshake.
const (
	turnToCome = iota
	turnTaken
	turnOver
)

type gateListener struct {
	net.Listener
	gate *gate
}

// Accept returns the next connection that there is room for. The others are closed.
func (l gateListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		switch {
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
			// http.Server tries again after a while; until then one that holds many has made room.
			l.gate.makeRoom(netip.Addr{}, limitDescriptors)
			return nil, err
		case err != nil:
			return nil, err
		}
		if in := l.gate.admit(c); in != nil {
			return in, nil
		}
	}
}

// admit counts a new connection, or closes it and returns nil.
func (g *gate) admit(c net.Conn) *gateConn {
	ap, _ := netip.ParseAddrPort(c.RemoteAddr().String()) // of a unix socket there is none
	in := &gateConn{Conn: c, gate: g, from: ap.Addr().Unmap()}
	if g.exempt(in.from) {
		in.standing = insider
	} else if !g.limiter.allow(in.from, perConnection, 1) {
		g.refuse(c, limitConnectionRate, in.from)
		return nil
	}
	g.mu.Lock()
	of := 0
	for i := range g.conns {
		of += g.conns[i].Of(in.from)
	}
	if of >= g.limits.ConnectionsOfOne && in.standing != insider {
		victim := g.dismissLocked(g.conns[silent].OldestOf(in.from))
		if victim == nil {
			g.mu.Unlock()
			g.refuse(c, limitConnectionsOne, in.from)
			return nil
		}
		defer g.refuse(victim, limitConnectionsOne, in.from)
	}
	if victim := g.victimLocked(in.from); victim != nil {
		defer g.refuse(victim, limitConnections, victim.from)
	}
	in.member = g.conns[in.standing].Add(in.from, 1, in)
	g.mu.Unlock()
	return in
}

// victimLocked takes out the connection that makes room for a newcomer, nil if there is room.
func (g *gate) victimLocked(newcomer netip.Addr) *gateConn {
	if g.lenLocked() < g.limits.Connections {
		return nil
	}
	for _, least := range []int{g.limits.Connections / silentShare, 0} {
		for i := range g.conns {
			pool := &g.conns[i]
			if pool.Len() == 0 || standing(i) < insider && pool.Len() <= least {
				continue
			}
			victim, _ := pool.Victim(newcomer, 1)
			if victim == nil {
				victim = pool.Oldest() // nobody has more than one: it has had the longest
			}
			return g.dismissLocked(victim)
		}
	}
	return nil
}

// dismissLocked takes a connection out. Whoever calls it closes it.
func (g *gate) dismissLocked(m *fair.Member[*gateConn]) *gateConn {
	if m == nil {
		return nil
	}
	c := m.Value
	g.conns[c.standing].Remove(m)
	c.member = nil
	return c
}

// makeRoom closes a connection of the network that has the most.
func (g *gate) makeRoom(newcomer netip.Addr, limit string) {
	g.mu.Lock()
	var victim *gateConn
	for i := range g.conns {
		if m, _ := g.conns[i].Victim(newcomer, 1); m != nil && victim == nil {
			victim = g.dismissLocked(m)
		}
	}
	g.mu.Unlock()
	if victim != nil {
		g.refuse(victim, limit, victim.from)
	} else {
		g.refused.note(limit, netip.Prefix{})
	}
}

// refuse closes a connection at once: its socket must not stay with what could still be sent.
func (g *gate) refuse(c net.Conn, limit string, from netip.Addr) {
	raw := c
	if in, ok := c.(*gateConn); ok {
		raw = in.Conn
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only when closed
	}
	_ = c.Close() // that is what is wanted
	g.refused.note(limit, fair.Address(from))
}

func (g *gate) lenLocked() int {
	n := 0
	for i := range g.conns {
		n += g.conns[i].Len()
	}
	return n
}

// count returns how many connections there are.
func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lenLocked()
}

// Read reads from the connection. What it returns first waits for the connection's turn.
func (c *gateConn) Read(b []byte) (int, error) {
	if c.turn.Load() == turnOver {
		return c.Conn.Read(b)
	}
	c.endTurn()
	n, err := c.Conn.Read(b)
	if n == 0 || c.turn.Load() != turnToCome {
		return n, err
	}
	if !c.gate.turns.enter(c.from) {
		c.gate.refuse(c, limitHandshakes, c.from)
		return 0, net.ErrClosed
	}
	if !c.turn.CompareAndSwap(turnToCome, turnTaken) { // closed meanwhile
		c.gate.turns.leave()
	}
	return n, err
}

// endTurn gives the turn back, if the connection has it.
func (c *gateConn) endTurn() {
	if c.turn.CompareAndSwap(turnTaken, turnOver) {
		c.gate.turns.leave()
	}
}

// Close ends the connection and gives its place back.
func (c *gateConn) Close() error {
	if !c.turn.CompareAndSwap(turnToCome, turnOver) {
		c.endTurn()
	}
	c.gate.mu.Lock()
	c.gate.dismissLocked(c.member)
	c.gate.mu.Unlock()
	return c.Conn.Close()
}

// rise says that more is known of the connection. It never falls.
func (c *gateConn) rise(to standing) {
	if c == nil {
		return // of a server without a gate
	}
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	if c.member == nil || to <= c.standing {
		return
	}
	c.gate.conns[c.standing].Remove(c.member)
	c.standing = to
	c.member = c.gate.conns[to].Add(c.from, 1, c)
}

// Keep says that the connection is in use by somebody who has shown a credential.
func (c *gateConn) Keep() { c.rise(insider) }

type gateKey struct{}

// withGate puts the counted connection below c, if there is one, into the context of its requests.
func withGate(ctx context.Context, c net.Conn) context.Context {
	for c != nil {
		if in, ok := c.(*gateConn); ok {
			return context.WithValue(ctx, gateKey{}, in)
		}
		over, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = over.NetConn()
	}
	return ctx
}

// gateOf returns the counted connection of a request, or nil.
func gateOf(ctx context.Context) *gateConn {
	c, _ := ctx.Value(gateKey{}).(*gateConn)
	return c
}
