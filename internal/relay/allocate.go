package relay

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"adit/internal/stunmsg"
)

// allocate makes an allocation (RFC 8656 section 7.2), or says again what it made for the same request.
func (t *TURN) allocate(c *client, m *message, user string, now time.Time, r *reply) int {
	if a := t.find(c.key()); a != nil {
		if a.user != user || a.id != m.id {
			return codeMismatch
		}
		t.allocated(a, c, r, now)
		return 0
	}
	switch {
	case m.transport == 0:
		return codeBadRequest
	case m.transport != protocolUDP:
		return codeTransport
	case m.reserve:
		return codeCapacity
	case m.family != 0 && m.family != stunmsg.IPv4 && m.family != stunmsg.IPv6:
		return codeFamily
	}
	ip, bind, ok := t.relayAddr(c, m.family == stunmsg.IPv6)
	if !ok {
		return codeFamily
	}
	lifetime := grantedLifetime(m)
	if lifetime == 0 {
		lifetime = defaultLifetime
	}
	if code := t.reserve(c, user, now); code != 0 {
		return code
	}
	conn := t.relaySocket(bind, m.evenPort)
	if conn == nil {
		t.unreserve(c, user)
		t.noRoom("no free port for an allocation")
		return codeCapacity
	}
	a := newAllocation(t, c, user, conn, netip.AddrPortFrom(ip, uint16(conn.LocalAddr().(*net.UDPAddr).Port)), now)
	a.id = m.id
	a.expires.Store(int64(t.since(now) + lifetime))
	t.mu.Lock()
	if t.ended || t.relayed[a.relayed] != nil {
		t.mu.Unlock()
		_ = conn.Close() // nobody has used it
		t.unreserve(c, user)
		return codeCapacity
	}
	t.allocations[c.key()] = a
	t.relayed[a.relayed] = a
	t.relayIPs[ip] = true
	t.wg.Go(a.serve)
	t.mu.Unlock()
	t.log.Debug("relay allocated", "transport", c.transport(), "lifetime", lifetime)
	t.allocated(a, c, r, now)
	return 0
}

func (t *TURN) allocated(a *allocation, c *client, r *reply, now time.Time) {
	r.address(attrRelayedAddress, a.relayed)
	r.uint32(attrLifetime, uint32(max(0, time.Duration(a.expires.Load())-t.since(now)+time.Second/2)/time.Second))
	r.address(stunmsg.XORMappedAddress, c.addr)
}

// refresh extends an allocation or ends it (RFC 8656 section 8.2).
func (t *TURN) refresh(a *allocation, m *message, now time.Time, r *reply) int {
	if m.family != 0 && (m.family == stunmsg.IPv4) != a.relayed.Addr().Is4() {
		return codePeerFamily
	}
	lifetime := grantedLifetime(m)
	r.uint32(attrLifetime, uint32(lifetime/time.Second))
	if lifetime == 0 {
		t.end(a, givenBack)
		return 0
	}
	a.expires.Store(int64(t.since(now) + lifetime))
	return 0
}

// grantedLifetime returns how long a client gets; 0 if it asked to end.
func grantedLifetime(m *message) time.Duration {
	switch {
	case !m.hasLifetime:
		return defaultLifetime
	case m.lifetime == 0:
		return 0
	}
	return min(max(m.lifetime, defaultLifetime), maxLifetime)
}

// reserve counts an allocation to come, if there is room for it.
func (t *TURN) reserve(c *client, user string, now time.Time) int {
	source, ok := sourceOf(c.addr.Addr())
	if !ok {
		return codeBadRequest
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	id := identity(user)
	side, address := t.users[id], t.sources[source]
	switch {
	case t.ended:
		return codeCapacity
	case side != nil && side.allocations >= t.cfg.PerCredential, address != nil && address.allocations >= t.cfg.PerSource:
		return codeQuota
	case t.count >= t.cfg.Allocations:
		t.noRoom("all allocations are in use")
		return codeCapacity
	}
	p := t.pairLocked(pairOf(user), now)
	if p == nil {
		t.noRoom("too many pairs are known")
		return codeCapacity
	}
	if side == nil {
		side = newAccount(t.cfg.Rate, t.cfg.Volume)
		t.users[id] = side
	}
	if address == nil {
		address = newAccount(t.cfg.SourceRate, t.cfg.SourceVolume)
		t.sources[source] = address
	}
	p.see(c.addr.Addr(), now)
	t.count++
	p.allocations++
	side.allocations++
	address.allocations++
	return 0
}

func (t *TURN) unreserve(c *client, user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unreserveLocked(c, user)
}

func (t *TURN) unreserveLocked(c *client, user string) {
	now := t.now()
	t.count--
	if p := t.pairs[pairOf(user)]; p != nil {
		p.allocations--
		p.usedAt = now
	}
	id := identity(user)
	if a := t.users[id]; a != nil {
		if a.allocations--; a.idle(now) {
			delete(t.users, id)
		}
	}
	source, _ := sourceOf(c.addr.Addr()) // it was one when it was counted
	if a := t.sources[source]; a != nil {
		if a.allocations--; a.idle(now) {
			delete(t.sources, source)
		}
	}
}

func (t *TURN) noRoom(why string) {
	t.full.Do(func() { t.log.Warn("the relay refuses allocations", "why", why) })
}

// end takes an allocation out of the tables and closes it. It may be called more than once.
func (t *TURN) end(a *allocation, why string) {
	t.mu.Lock()
	if t.allocations[a.client.key()] != a {
		t.mu.Unlock()
		return
	}
	delete(t.allocations, a.client.key())
	delete(t.relayed, a.relayed)
	t.unreserveLocked(&a.client, a.user)
	t.mu.Unlock()
	_ = a.conn.Close() // its reader ends
	if s := a.client.conn; s != nil && why != givenBack {
		_ = s.conn.SetReadDeadline(time.Now()) // its reader closes it, so that the client hears of it
	}
	t.log.Info("relayed", "bytes", a.bytes.Load(), "transport", a.client.transport(), "for", t.now().Sub(a.began).Round(time.Second), "ended", why)
}

// relayAddr returns the address that an allocation of a client is on, and the one that its socket is
// bound to: they differ behind a NAT, where any address of ours will do.
func (t *TURN) relayAddr(c *client, v6 bool) (ip, bind netip.Addr, ok bool) {
	own := t.policy.current(t.now()).addrs
	anyAddr := netip.IPv4Unspecified()
	if v6 {
		anyAddr = netip.IPv6Unspecified()
	}
	for _, ip := range t.cfg.Addrs {
		if ip = ip.Unmap(); ip.Is6() == v6 {
			if own[ip] || ip.IsLoopback() {
				return ip, ip, true
			}
			return ip, anyAddr, true
		}
	}
	if c.local.IsValid() && c.local.Is6() == v6 && !c.local.IsLinkLocalUnicast() {
		return c.local, c.local, true
	}
	var best netip.Addr
	for ip := range own {
		if ip.Is6() != v6 || !ip.IsGlobalUnicast() {
			continue
		}
		// A public one first; and of several always the same.
		if !best.IsValid() || best.IsPrivate() && !ip.IsPrivate() || best.IsPrivate() == ip.IsPrivate() && ip.Less(best) {
			best = ip
		}
	}
	return best, best, best.IsValid()
}

// relaySocket opens a socket on a random free port of the range, or returns nil.
func (t *TURN) relaySocket(bind netip.Addr, even bool) *net.UDPConn {
	network := "udp4"
	if bind.Is6() {
		network = "udp6"
	}
	span := int(t.cfg.MaxPort) - int(t.cfg.MinPort) + 1
	first := rand.IntN(span)
	for i := range min(span, portTries) {
		port := int(t.cfg.MinPort) + first
		if first = (first + 1) % span; i%8 == 7 {
			first = rand.IntN(span) // away from a run of used ones
		}
		if even {
			if port&^1 < int(t.cfg.MinPort) {
				continue
			}
			port &^= 1
		}
		conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.AddrPortFrom(bind, uint16(port))))
		if err == nil {
			_ = conn.SetReadBuffer(socketBuffer) // the system's default will do
			_ = conn.SetWriteBuffer(socketBuffer)
			return conn
		}
	}
	return nil
}
