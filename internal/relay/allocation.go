package relay

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/stunmsg"
)

const (
	permissionLife = 5 * time.Minute // RFC 8656 sections 9 and 12
	channelLife    = 10 * time.Minute
	maxPeers       = 128 // permissions, and channels, of an allocation

	// headroom is what a Data indication needs in front of its data: header, XOR-PEER-ADDRESS for IPv6,
	// and the header of DATA. Data is read behind that much room, and never copied.
	headroom     = stunmsg.HeaderBytes + 4 + 20 + 4
	maxDatagram  = 2048 // larger than any path to a relay carries whole, with the header of its message
	padding      = 3
	socketBuffer = 1 << 20
)

// A client is how somebody is reached who asked for an allocation.
type client struct {
	addr  netip.AddrPort
	local netip.Addr // that it reached, if known
	sock  *socket    // of UDP
	index int        // of UDP: the interface it came by, if known
	oob   []byte     // of UDP, and of an allocation: sends from local
	conn  *stream    // of TCP and TLS
}

func (c *client) key() fiveTuple {
	if c.conn != nil {
		return fiveTuple{conn: c.conn}
	}
	return fiveTuple{sock: c.sock, remote: c.addr, local: c.local}
}

func (c *client) transport() string {
	if c.conn != nil {
		return c.conn.transport
	}
	return "udp"
}

// send sends one message; on a stream it is padded, or dropped if the client reads too slowly.
func (c *client) send(b []byte) {
	if c.conn != nil {
		c.conn.write(b)
		return
	}
	c.sock.writeFrom(b, c.addr, c.oob)
}

// An allocation is a relayed address and who may send to it.
type allocation struct {
	t       *TURN
	client  client
	user    string
	pair    string
	began   time.Time
	id      stunmsg.ID // of the request that made it
	relayed netip.AddrPort
	conn    *net.UDPConn
	shares  [3]*account  // of its side, of its client's address, of all
	traffic *traffic     // of its transport
	expires atomic.Int64 // nanoseconds since the server's start
	active  atomic.Int64 // the same: when something was relayed last
	bytes   atomic.Int64 // relayed, both ways

	mu          sync.RWMutex
	permissions map[netip.Addr]time.Time // when they end
	channels    map[uint16]*channel
	byPeer      map[netip.AddrPort]*channel
}

// A channel is a number that stands for a peer.
type channel struct {
	number uint16
	peer   netip.AddrPort
	ends   time.Time // guarded by the allocation's mu
}

func newAllocation(t *TURN, c *client, user string, conn *net.UDPConn, relayed netip.AddrPort, now time.Time) *allocation {
	a := &allocation{
		t: t, client: *c, user: user, pair: pairOf(user), began: now, conn: conn, relayed: relayed,
		traffic:     &t.traffic[slices.Index(transports[:], c.transport())],
		permissions: make(map[netip.Addr]time.Time),
		channels:    make(map[uint16]*channel),
		byPeer:      make(map[netip.AddrPort]*channel),
	}
	if c.conn == nil {
		a.client.oob, _ = c.sock.control(destination{c.local, c.index}) // what came to many has no allocation
	}
	source, _ := sourceOf(c.addr.Addr()) // it was one when it was counted
	t.mu.RLock()
	a.shares = [3]*account{t.users[identity(user)], t.sources[source], t.total}
	t.mu.RUnlock()
	a.active.Store(int64(t.since(now)))
	return a
}

// mayReach says whether the allocation may send to a peer: to where one of the two sides of its room was seen, and to
// relayed addresses. A port of 0 stands for any, as in a permission: of our own relayed addresses that opens none but
// those of the same room (toPeer).
func (a *allocation) mayReach(peer netip.AddrPort, now time.Time) bool {
	a.t.mu.RLock()
	ours := a.t.relayIPs[peer.Addr()]
	a.t.mu.RUnlock()
	if ours && (peer.Port() == 0 || peer.Port() >= a.t.cfg.MinPort && peer.Port() <= a.t.cfg.MaxPort) {
		return true
	}
	return a.t.policy.allows(peer.Addr(), now) && a.t.reaches(a.pair, peer.Addr())
}

// check says why a peer of a request is not one that the allocation can have, or 0.
func (a *allocation) check(peer netip.AddrPort, now time.Time) int {
	switch {
	case !a.mayReach(netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()), now):
		a.t.forbidden.Add(1)
		return codeForbidden
	case peer.Addr().Is4() != a.relayed.Addr().Is4() || peer.Addr().Is4In6():
		return codePeerFamily
	}
	return 0
}

// createPermissions opens the allocation to addresses (RFC 8656 section 10.2). An address that it may not
// have leaves all others out too; where there is no room for one (508), those named before it are open.
func (a *allocation) createPermissions(m *message, now time.Time) int {
	if m.npeers == 0 {
		return codeBadRequest
	}
	peers := m.peers[:m.npeers]
	for _, p := range peers {
		if code := a.check(p, now); code != 0 {
			return code
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range peers {
		if !a.permitLocked(p.Addr(), now) {
			return codeCapacity
		}
	}
	return 0
}

func (a *allocation) permitLocked(ip netip.Addr, now time.Time) bool {
	if _, known := a.permissions[ip]; !known && len(a.permissions) >= maxPeers {
		for old, ends := range a.permissions {
			if !now.Before(ends) {
				delete(a.permissions, old)
			}
		}
		if len(a.permissions) >= maxPeers {
			return false
		}
	}
	a.permissions[ip] = now.Add(permissionLife)
	return true
}

// bindChannel binds a number to a peer, or renews it (RFC 8656 section 12.2).
func (a *allocation) bindChannel(m *message, now time.Time) int {
	if m.channel < stunmsg.MinChannel || m.channel > stunmsg.MaxChannelOld || m.npeers != 1 || m.peers[0].Port() == 0 {
		return codeBadRequest
	}
	peer := m.peers[0]
	if code := a.check(peer, now); code != 0 {
		return code
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.channels) >= maxPeers {
		a.dropChannelsLocked(now)
	}
	byNumber, byPeer := a.channels[m.channel], a.byPeer[peer]
	if byNumber != byPeer {
		a.dropChannelsLocked(now)
		byNumber, byPeer = a.channels[m.channel], a.byPeer[peer]
	}
	switch {
	case byNumber != byPeer:
		return codeBadRequest // the number is another's, or the peer has another
	case byNumber == nil && len(a.channels) >= maxPeers, !a.permitLocked(peer.Addr(), now):
		return codeCapacity
	case byNumber == nil:
		byNumber = &channel{number: m.channel, peer: peer}
		a.channels[m.channel], a.byPeer[peer] = byNumber, byNumber
	}
	byNumber.ends = now.Add(channelLife)
	return 0
}

func (a *allocation) dropChannelsLocked(now time.Time) {
	for n, c := range a.channels {
		if !now.Before(c.ends) {
			delete(a.channels, n)
			delete(a.byPeer, c.peer)
		}
	}
}

// channelData relays a ChannelData message, data[headroom:], to its peer.
func (a *allocation) channelData(data []byte, now time.Time) {
	number, b, ok := stunmsg.ChannelData(data[headroom:])
	if !ok {
		return
	}
	a.mu.RLock()
	c := a.channels[number]
	ok = c != nil && now.Before(c.ends)
	a.mu.RUnlock()
	if ok {
		a.toPeer(data[stunmsg.ChannelHeader:headroom+stunmsg.ChannelHeader+len(b)], c.peer, now)
	}
}

// sendIndication relays the data of a Send indication (RFC 8656 section 11.2).
func (a *allocation) sendIndication(data []byte, m *message, now time.Time) {
	if m.bad || m.nunknown > 0 || m.npeers != 1 || !m.hasData || m.peers[0].Port() == 0 {
		return
	}
	peer := m.peers[0]
	if peer.Addr().Is4In6() {
		return // no permission is for one
	}
	a.mu.RLock()
	ok := now.Before(a.permissions[peer.Addr()])
	a.mu.RUnlock()
	if ok {
		// What lies before the data in its packet is room enough: a header and an address at least.
		at := cap(data) - cap(m.data)
		a.toPeer(data[at-headroom:at+len(m.data)], peer, now)
	}
}

// toPeer sends data[headroom:] to a peer that the client may reach.
func (a *allocation) toPeer(data []byte, peer netip.AddrPort, now time.Time) {
	b := data[headroom:]
	if !a.spend(false, len(b), now) {
		return
	}
	a.t.mu.RLock()
	other := a.t.relayed[peer]
	ours := a.t.relayIPs[peer.Addr()]
	a.t.mu.RUnlock()
	if other != nil {
		// Both are clients here. Going through the sockets would work too, except behind NATs that do
		// not turn packets around.
		if other.pair == a.pair {
			other.fromPeer(data, a.relayed, now)
		}
		return
	}
	if ours && !(a.t.policy.allows(peer.Addr(), now) && a.t.reaches(a.pair, peer.Addr())) {
		return // this machine's own ports
	}
	_, _ = a.conn.WriteToUDPAddrPort(b, peer) // an error is a loss
}

// spend takes n bytes out of what the side, its address and all together may relay.
func (a *allocation) spend(down bool, n int, now time.Time) bool {
	for _, share := range a.shares {
		if !share.spend(down, n, now) {
			a.traffic.dropped.Add(1)
			return false
		}
	}
	a.active.Store(int64(a.t.since(now)))
	a.bytes.Add(int64(n))
	a.traffic.bytes.Add(uint64(n))
	a.traffic.packets.Add(1)
	return true
}

// serve takes in what peers send until the socket is closed.
func (a *allocation) serve() {
	buf := make([]byte, headroom+maxDatagram+padding)
	for {
		n, from, err := a.conn.ReadFromUDPAddrPort(buf[headroom : headroom+maxDatagram])
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			if !pause(a.t.closed) {
				return
			}
			continue
		case n == maxDatagram:
			continue // cut off
		}
		a.fromPeer(buf[:headroom+n], netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port()), a.t.now())
	}
}

// pause waits a moment after an error that must not spin; false if the server has ended.
func pause(closed <-chan struct{}) bool {
	select {
	case <-closed:
		return false
	case <-time.After(time.Millisecond):
		return true
	}
}

// fromPeer relays data[headroom:] to the client, if its sender may. It writes over the headroom, and
// over three bytes behind the data.
func (a *allocation) fromPeer(data []byte, from netip.AddrPort, now time.Time) {
	a.mu.RLock()
	c := a.byPeer[from]
	channel := c != nil && now.Before(c.ends)
	ok := channel || now.Before(a.permissions[from.Addr()])
	a.mu.RUnlock()
	n := len(data) - headroom
	if !ok || !a.spend(true, n, now) {
		return
	}
	var b []byte
	if channel {
		b = data[headroom-stunmsg.ChannelHeader:]
		binary.BigEndian.PutUint16(b, c.number)
		binary.BigEndian.PutUint16(b[2:], uint16(n))
	} else {
		b = dataIndication(data, from)
	}
	if channel && a.client.conn == nil {
		a.client.send(b) // padding is for streams (RFC 8656 section 12.5)
		return
	}
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	a.client.send(b)
}

// dataIndication writes the header of a Data indication in front of data[headroom:] and returns the
// message, without padding.
func dataIndication(data []byte, from netip.AddrPort) []byte {
	size := 4
	if from.Addr().Is6() {
		size = 16
	}
	n := len(data) - headroom
	at := headroom - (stunmsg.HeaderBytes + 8 + size + 4)
	b := data[at:]
	var id stunmsg.ID
	binary.BigEndian.PutUint64(id[:], rand.Uint64())
	binary.BigEndian.PutUint32(id[8:], rand.Uint32())
	h := stunmsg.AppendHeader(b[:0], methodData|classIndication, id)
	h = stunmsg.AppendXORAddress(h, attrPeerAddress, from, id)
	h = binary.BigEndian.AppendUint16(h, attrData)
	binary.BigEndian.AppendUint16(h, uint16(n))
	binary.BigEndian.PutUint16(b[2:], uint16(8+size+4+(n+3)&^3)) // the padding counts too
	return b
}
