package peer

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"adit/internal/link"
)

// relayedPrefix is where addresses stand for a peer behind one of this side's relays. It is the
// discard-only block (RFC 6666), so that nothing leaves the machine should one slip out.
var relayedPrefix = netip.MustParsePrefix("100::/64")

const (
	maxRoutes = 512 // over all relays; a relay knows 64 peers
	mostCame  = 8   // addresses that the peer was heard from and did not name, the newest
)

// A route is what an address of relayedPrefix stands for.
type route struct {
	via  carrier
	peer netip.AddrPort // the zero AddrPort if there is only one peer behind it
}

// A carrier takes datagrams to peers of its own: an allocation on a TURN server, or the rendezvous.
type carrier interface {
	Send(b []byte, segment int, to netip.AddrPort) error
	SetHandler(func(b []byte, segment int, from netip.AddrPort))
}

// A switchboard is the link's socket: it sends to UDP addresses through the host's sockets, and to
// those that stand for a peer behind a relay through that relay. To the link a relay is one more
// address to send to.
type switchboard struct {
	direct link.Socket
	mux    *link.Mux
	heard  func() uint64             // how many authentic packets of the peer have come
	news   func(name netip.AddrPort) // told of an address behind a relay that the peer is heard from; it must not block

	mu     sync.RWMutex
	came   []netip.AddrPort // what news was told, the oldest first
	routes map[netip.AddrPort]route
	names  map[route]netip.AddrPort
	last   uint32 // number of an address
}

func newSwitchboard(direct link.Socket, mux *link.Mux, heard func() uint64, news func(netip.AddrPort)) *switchboard {
	return &switchboard{
		direct: direct, mux: mux, heard: heard, news: news,
		routes: make(map[netip.AddrPort]route), names: make(map[route]netip.AddrPort),
	}
}

// relayed reports whether packets to an address go through a relay of this side's.
func relayed(a netip.AddrPort) bool { return relayedPrefix.Contains(a.Addr()) }

// Send implements link.Socket.
func (s *switchboard) Send(b []byte, segment int, to netip.AddrPort) error {
	if !relayed(to) {
		return s.direct.Send(b, segment, to)
	}
	s.mu.RLock()
	r, ok := s.routes[to]
	s.mu.RUnlock()
	if !ok {
		return fmt.Errorf("send through a relay that is gone: %w", net.ErrClosed)
	}
	return r.via.Send(b, segment, r.peer)
}

// name returns the address that stands for a peer behind a relay; it is not valid if there are too many.
func (s *switchboard) name(via carrier, peer netip.AddrPort) netip.AddrPort {
	a, _ := s.nameOf(via, peer)
	return a
}

// nameOf is name, and tells whether there was none before.
func (s *switchboard) nameOf(via carrier, peer netip.AddrPort) (a netip.AddrPort, news bool) {
	r := route{via, peer}
	s.mu.RLock()
	a, ok := s.names[r]
	s.mu.RUnlock()
	if ok {
		return a, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.names[r]; ok {
		return a, false
	}
	if len(s.names) >= maxRoutes {
		return netip.AddrPort{}, false
	}
	raw := relayedPrefix.Addr().As16()
	s.last++
	binary.BigEndian.PutUint32(raw[12:], s.last)
	a = netip.AddrPortFrom(netip.AddrFrom16(raw), peer.Port())
	s.names[r], s.routes[a] = a, r
	return a, true
}

// reflexive returns the addresses behind relays that the peer was heard from first and can still be sent to: its NAT's
// ports towards the relay, which it cannot know. They are the newest few.
func (s *switchboard) reflexive() []netip.AddrPort {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.DeleteFunc(slices.Clone(s.came), func(a netip.AddrPort) bool {
		_, ok := s.routes[a]
		return !ok
	})
}

// attach lets what comes through a relay in.
func (s *switchboard) attach(a carrier) {
	a.SetHandler(func(b []byte, segment int, from netip.AddrPort) {
		name, news := s.nameOf(a, from)
		switch {
		case !name.IsValid():
		case !news:
			s.mux.Deliver(b, segment, name)
		default:
			before := s.heard()
			s.mux.Deliver(b, segment, name)
			if s.heard() > before {
				s.mu.Lock()
				s.came = append(s.came[max(len(s.came)-mostCame+1, 0):], name)
				s.mu.Unlock()
				s.news(name)
			}
		}
	})
}

// detach forgets the addresses behind a relay that is gone.
func (s *switchboard) detach(a carrier) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r, name := range s.names {
		if r.via == a {
			delete(s.names, r)
			delete(s.routes, name)
		}
	}
}

// route returns what an address stands for.
func (s *switchboard) route(a netip.AddrPort) (route, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.routes[a]
	return r, ok
}
