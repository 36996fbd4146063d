package punch

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"adit/internal/nat64"
	"adit/internal/uplink"
)

// In a network without IPv4 that translates (NAT64, RFC 6146) a Host does for its own sockets what the client
// side of 464XLAT (RFC 6877) does for a whole machine: the IPv4 socket is one in name, which sends by the IPv6
// socket to the network's prefix, and what comes from there comes from an IPv4 address. ICE, the STUN client, bursts
// and the link see IPv4 as ever, and IPv4 addresses are what the peer is told: those of the NAT64.
//
//	IPv4 address ── prefix + address ──> IPv6 socket ──> NAT64 ──> IPv4 internet

// prefixLimit is how long the resolver may take to tell of a NAT64.
const prefixLimit = time.Second

// errNoNAT64 says that IPv4 is out of reach.
var errNoNAT64 = errors.New("there is no IPv4, and no NAT64 is known")

// ownIPv4 is the address that the IPv4 side of such a host has (RFC 7335). No peer is told of it.
var ownIPv4 = netip.AddrFrom4([4]byte{192, 0, 0, 2})

// sock returns the socket of a family, 0 for IPv4 or 1 for IPv6; nil if there is none.
func (h *Host) sock(family int) *socket {
	if family == 0 {
		if s := h.through.Load(); s != nil {
			return s
		}
	}
	return h.socks[family]
}

// findNAT64 finds out whether IPv4 must go through a NAT64, and its prefix. In a network with IPv4 it costs nothing.
func (h *Host) findNAT64(ctx context.Context) {
	s6 := h.socks[1]
	if s6 == nil || !OnlyIPv6() {
		h.through.Store(nil)
		return
	}
	s := h.through.Load()
	if s == nil {
		// It is there before its prefix is, so that agents made meanwhile have it.
		s = throughNAT64(s6, new(atomic.Pointer[netip.Prefix]))
		h.through.Store(s)
	}
	ctx, cancel := context.WithTimeout(ctx, prefixLimit)
	defer cancel()
	p, err := nat64.Discover(ctx)
	if err != nil {
		h.log.Info("there is no IPv4 here", "err", err)
		return // an old prefix may still do
	}
	h.log.Info("IPv4 goes through a NAT64", "prefix", p)
	s.prefix.Store(&p)
}

// OnlyIPv6 reports whether this machine has a way out by IPv6 and no IPv4 at all. Where it has an IPv4 address
// without a way out, that is the way to the peers of its LAN, which a NAT64 is not.
func OnlyIPv6() bool {
	if _, ok := uplink.Source(false); ok {
		return false
	}
	if _, ok := uplink.Source(true); !ok {
		return false
	}
	addrs, err := localAddrs(false)
	for _, a := range addrs {
		if a.Is4() {
			return false
		}
	}
	return err == nil
}

// throughNAT64 makes an IPv4 socket of an IPv6 one.
func throughNAT64(s6 *socket, prefix *atomic.Pointer[netip.Prefix]) *socket {
	return &socket{conn: s6.conn, port: s6.port, buffer: s6.buffer, whole: s6.whole, over: s6, prefix: prefix}
}

// listenFresh opens one more IPv4 socket, or what does for one.
func (h *Host) listenFresh() (*socket, error) {
	t := h.through.Load()
	if t == nil {
		return listenSocket(false, 0)
	}
	s6, err := listenSocket(true, 0)
	if err != nil {
		return nil, err
	}
	return throughNAT64(s6, t.prefix), nil
}

// send sends the datagrams of segment bytes each that b holds: see Host.Send.
func (s *socket) send(b []byte, segment int, to netip.AddrPort) error {
	if s.over == nil {
		return s.batch.send(b, segment, to)
	}
	p := s.prefix.Load()
	if p == nil {
		return fmt.Errorf("send to %v: %w", to, errNoNAT64)
	}
	return s.over.batch.send(b, segment, netip.AddrPortFrom(nat64.Synthesize(*p, to.Addr()), to.Port()))
}

// sendNear sends one datagram that dies after ttl hops; through a NAT64 it is an ordinary one.
func (s *socket) sendNear(b []byte, ttl int, to netip.AddrPort) error {
	if s.over == nil {
		return s.batch.sendNear(b, ttl, to)
	}
	return s.send(b, len(b), to)
}

// from returns where a packet comes from that came from an address to this socket: for one through a NAT64,
// or for an IPv6 socket that such a one shares, the IPv4 address that stands for.
func (s *socket) from(a netip.AddrPort) netip.AddrPort {
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	if s == nil || s.over == nil {
		return a
	}
	if p := s.prefix.Load(); p != nil {
		if v4, ok := nat64.Extract(*p, a.Addr()); ok {
			return netip.AddrPortFrom(v4, a.Port())
		}
	}
	return a
}
