package punch

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/stun"

	"adit/internal/stunmsg"
)

const (
	maxTransactions = 4096             // open at one time; the oldest makes room
	transactionLife = 10 * time.Second // after that a response is too late
	inboxPackets    = 64               // checks that wait for an agent; more are dropped, and sent again

	// Of the first checks to an address (see muxConn.WriteTo): past a home router and a carrier's
	// NAT, and for as long as an answer may be under way, at ten checks a second.
	nearHops   = 4
	nearChecks = 3
	maxNear    = 64 // addresses counted
)

// A table says whom a STUN message is for: a request goes by the user fragment in its USERNAME, a
// response by the transaction that it answers. Remote addresses play no part, so that several
// generations of agents can share a socket and a peer.
type table struct {
	limit  limiter
	routes routes

	mu     sync.Mutex
	muxes  map[string]*agentMux // by local user fragment
	open   map[stunmsg.ID]transaction
	ring   [maxTransactions]stunmsg.ID // of open, oldest at next
	next   int
	closed bool
}

// A transaction is a request of ours that may be answered: to conn's agent, to our STUN client, or to a
// burst, which only wants to know that the peer did.
type transaction struct {
	conn   *muxConn
	answer chan<- answer // capacity 1
	hit    chan<- netip.AddrPort
	pwd    stun.MessageIntegrity // the peer's, if hit is set
	at     time.Time
}

type answer struct {
	typ    uint16
	mapped netip.AddrPort // this side as the server saw it; invalid if it does not say
	from   netip.AddrPort
}

func newTable() *table {
	return &table{muxes: make(map[string]*agentMux), open: make(map[stunmsg.ID]transaction)}
}

// expect remembers a transaction.
func (t *table) expect(id stunmsg.ID, x transaction) {
	x.at = time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, t.ring[t.next])
	t.ring[t.next] = id
	t.next = (t.next + 1) % len(t.ring)
	t.open[id] = x
}

// forget ends a transaction that nobody waits for any more.
func (t *table) forget(id stunmsg.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, id)
}

// deliver takes one STUN packet, which came in by a route or, if it is nil, by a socket of the host's own; on is
// the socket if it is that of another way out. What makes no sense, answers nothing or is meant for nobody is dropped without a word.
func (t *table) deliver(on *socket, by *route, p []byte, from netip.AddrPort) {
	typ, id, ok := stunmsg.Parse(p)
	if !ok || len(p) > maxSTUN {
		return
	}
	switch typ {
	case stunmsg.BindingRequest:
		user, ok := stunmsg.Find(p, stunmsg.Username)
		if !ok {
			return
		}
		ufrag, _, ok := bytes.Cut(user, []byte{':'})
		if !ok {
			return
		}
		t.mu.Lock()
		m := t.muxes[string(ufrag)]
		t.mu.Unlock()
		if m != nil && t.limit.allow(from.Addr(), time.Now()) && m.admit(p, id, from) {
			m.heard.Store(true)
			if on == nil && by == nil {
				t.routes.passed(from) // before the agent answers
			}
			m.deliver(on, p, from)
		}
	case stunmsg.BindingSuccess, stunmsg.BindingError:
		t.mu.Lock()
		x, ok := t.open[id]
		delete(t.open, id)
		t.mu.Unlock()
		switch {
		case !ok || time.Since(x.at) > transactionLife:
		case x.conn != nil:
			x.conn.mux.heard.Store(true)
			x.conn.deliver(p, from)
		case x.answer == nil:
			// Whoever else has the port answers too: a STUN server, another peer.
			if typ != stunmsg.BindingSuccess || !authentic(p, x.pwd) {
				return
			}
			select {
			case x.hit <- from:
			default: // another came before
			}
		default:
			mapped, _ := stunmsg.Mapped(p, id)
			x.answer <- answer{typ, mapped, from} // room for the only answer
		}
	}
}

// add registers a mux; false means that its user fragment is taken or the host is closed.
func (t *table) add(m *agentMux) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.muxes[m.ufrag] != nil {
		return false
	}
	t.muxes[m.ufrag] = m
	return true
}

func (t *table) remove(m *agentMux) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.muxes[m.ufrag] == m {
		delete(t.muxes, m.ufrag)
	}
	for id, x := range t.open {
		if x.conn != nil && x.conn.mux == m {
			delete(t.open, id)
		}
	}
}

// An agentMux is the ice.UDPMux of one agent: one base for each family, on the host's sockets.
type agentMux struct {
	table *table
	ufrag string
	pwd   stun.MessageIntegrity
	near  bool // begin with checks that do not reach the peer's router
	heard atomic.Bool
	conns [2]*muxConn // IPv4, IPv6; nil where the family is missing
	ways  []*muxConn  // further ways out
	door  door
}

var _ ice.UDPMux = (*agentMux)(nil)

func newAgentMux(t *table, c Credentials, near bool) *agentMux {
	return &agentMux{
		table: t, ufrag: c.Ufrag, pwd: stun.NewShortTermIntegrity(c.Pwd), near: near,
	}
}

// attach adds the base of one family, known to the agent as local, or that of another way out.
func (m *agentMux) attach(s *socket, local netip.Addr) {
	c := &muxConn{
		mux: m, sock: s, local: net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, s.port)),
		inbox: make(chan inPacket, inboxPackets), done: make(chan struct{}),
	}
	switch {
	case s.bound.IsValid():
		m.ways = append(m.ways, c)
	case s.v6:
		m.conns[1] = c
	default:
		m.conns[0] = c
	}
}

// all returns the conns of all bases.
func (m *agentMux) all() []*muxConn {
	return slices.DeleteFunc(slices.Concat(m.conns[:], m.ways), func(c *muxConn) bool { return c == nil })
}

// admit reports whether the agent may see a check: it is authentic, and not one of those that door
// turns away.
func (m *agentMux) admit(p []byte, id stunmsg.ID, from netip.AddrPort) bool {
	if !m.door.mayPass(id, from) {
		return false
	}
	return authentic(p, m.pwd) && m.door.pass(id, from)
}

// authentic reports whether a message is from one who has a password.
func authentic(p []byte, pwd stun.MessageIntegrity) bool {
	msg := stun.Message{Raw: slices.Clone(p)}
	return msg.Decode() == nil && pwd.Check(&msg) == nil
}

// expectFrom makes the checks of a remote candidate welcome.
func (m *agentMux) expectFrom(from netip.AddrPort) { m.door.expect(from) }

func (m *agentMux) deliver(on *socket, p []byte, from netip.AddrPort) {
	c := m.conns[family(from.Addr())]
	if on != nil {
		c = nil // a way that was found after the agent was made
		if i := slices.IndexFunc(m.ways, func(c *muxConn) bool { return c.sock == on }); i >= 0 {
			c = m.ways[i]
		}
	}
	if c != nil {
		c.deliver(p, from)
	}
}

// GetListenAddresses returns the bases: one address a family, and one for each further way out. The kernel picks
// the source address of a wildcard socket anyway, more bases would only multiply identical checks.
func (m *agentMux) GetListenAddresses() []net.Addr {
	var out []net.Addr
	for _, c := range m.all() {
		out = append(out, c.local)
	}
	return out
}

// GetConn returns the conn of a base.
func (m *agentMux) GetConn(ufrag string, addr net.Addr) (net.PacketConn, error) {
	for _, c := range m.all() {
		if ufrag == m.ufrag && c.local.String() == addr.String() {
			return c, nil
		}
	}
	return nil, net.ErrClosed
}

// RemoveConnByUfrag ends the agent's conns; the sockets stay open.
func (m *agentMux) RemoveConnByUfrag(ufrag string) {
	if ufrag == m.ufrag {
		_ = m.Close() // cannot fail
	}
}

// Close ends the agent's conns.
func (m *agentMux) Close() error {
	m.table.remove(m)
	for _, c := range m.all() {
		_ = c.Close() // cannot fail
	}
	return nil
}

type inPacket struct {
	b    []byte
	from *net.UDPAddr
}

// A muxConn carries the STUN messages of one base of one agent.
type muxConn struct {
	mux   *agentMux
	sock  *socket
	local *net.UDPAddr
	inbox chan inPacket
	done  chan struct{}
	once  sync.Once

	mu   sync.Mutex
	sent map[netip.AddrPort]int // near checks
}

func (c *muxConn) deliver(p []byte, from netip.AddrPort) {
	if len(c.inbox) == cap(c.inbox) {
		return // before the copy
	}
	select {
	case c.inbox <- inPacket{slices.Clone(p), net.UDPAddrFromAddrPort(from)}:
	default:
	}
}

// ReadFrom returns the next message for the agent, or io.EOF once the conn is closed.
func (c *muxConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-c.inbox:
		return copy(b, p.b), p.from, nil
	case <-c.done:
		return 0, nil, io.EOF
	}
}

// WriteTo sends one message. What the network refuses counts as lost: checks are repeated, and the
// agent would only log it.
//
// The first checks of the side that answers an offer die after a few hops, behind its own router
// and in front of the peer's. They open its own router for the peer, who does not know of it yet. A
// check that reached a Linux router before the peer sent anything could leave an entry there that
// takes the peer's port away, so that the peer's mapping gets another port than the one it announced.
// Only Linux can set the hop limit of one datagram; elsewhere these checks are ordinary ones.
func (c *muxConn) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-c.done:
		return 0, io.ErrClosedPipe
	default:
	}
	u, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, net.InvalidAddrError(to.String())
	}
	dst := u.AddrPort()
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if dst.Addr().Is6() != c.sock.v6 || !stunmsg.Is(b) {
		return len(b), nil
	}
	sock := c.sock
	if r := c.mux.table.routes.to(dst); r != nil && !sock.bound.IsValid() && !r.sock.bound.IsValid() {
		sock = r.sock // the only one that has a hole
	}
	if typ, id, ok := stunmsg.Parse(b); ok && typ == stunmsg.BindingRequest {
		c.mux.table.expect(id, transaction{conn: c})
		if c.isNear(dst) {
			_ = sock.sendNear(b, nearHops, dst) // lost
			return len(b), nil
		}
	}
	_ = sock.send(b, len(b), dst) // lost
	return len(b), nil
}

// isNear reports whether the next check to dst is one of those that only open the own router.
func (c *muxConn) isNear(dst netip.AddrPort) bool {
	if !c.mux.near || c.mux.heard.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent == nil {
		c.sent = make(map[netip.AddrPort]int)
	}
	n, known := c.sent[dst]
	if n >= nearChecks || !known && len(c.sent) >= maxNear {
		return false
	}
	c.sent[dst]++
	return true
}

// Close unblocks ReadFrom; the socket stays open.
func (c *muxConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

func (c *muxConn) LocalAddr() net.Addr { return c.local }

// Deadlines are not kept: the agent sets them only in front of Close.
func (c *muxConn) SetDeadline(time.Time) error      { return nil }
func (c *muxConn) SetReadDeadline(time.Time) error  { return nil }
func (c *muxConn) SetWriteDeadline(time.Time) error { return nil }
