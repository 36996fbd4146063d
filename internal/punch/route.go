package punch

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/uplink"
)

const (
	// maxRoutes bounds how many sockets a host has besides its own two: one for each peer that was found
	// by a burst. The one that heard nothing for longest makes room.
	maxRoutes = 8

	// routeQuiet is how long a hole that is in doubt may be silent. The link asks at once when the network
	// changes, and again until it is answered.
	routeQuiet = 3 * time.Second
)

// A route says that packets to an address leave by another socket than the host's own, the only one for
// which the NATs in between have a hole. It is of use only in the network where the burst was.
type route struct {
	to     netip.AddrPort
	sock   *socket
	source netip.Addr // of packets to there when the route was made; invalid if there was none
	made   time.Time
	heard  atomic.Int64 // nanoseconds after made when the last packet came from there
}

func newRoute(to netip.AddrPort, s *socket) *route {
	return &route{to: to, sock: s, source: s.source(to), made: time.Now()}
}

func (r *route) quiet() time.Duration { return time.Since(r.made) - time.Duration(r.heard.Load()) }

// hear notes that a packet came in by the route's socket.
func (r *route) hear(from netip.AddrPort) {
	if from == r.to {
		r.heard.Store(int64(time.Since(r.made)))
	}
}

// routes are those of a host. The zero value is ready. Its methods may be called from any goroutine.
type routes struct {
	list atomic.Pointer[[]*route] // replaced as a whole, with mu held

	mu     sync.Mutex
	closed bool
}

func (t *routes) all() []*route {
	if list := t.list.Load(); list != nil {
		return *list
	}
	return nil
}

// to returns the route to an address, or nil: the host's own socket is the one.
func (t *routes) to(to netip.AddrPort) *route {
	for _, r := range t.all() {
		if r.to == to {
			return r
		}
	}
	return nil
}

// add takes a route, in the place of an older one to the same address, and its socket, which is the host's
// to close. false means that the host is closed.
func (t *routes) add(r *route) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.dropLocked(func(old *route) bool { return old.to == r.to })
	if list := t.all(); len(list) >= maxRoutes {
		quietest := slices.MaxFunc(list, func(a, b *route) int { return cmp.Compare(a.quiet(), b.quiet()) })
		t.dropLocked(func(old *route) bool { return old == quietest })
	}
	list := append(slices.Clone(t.all()), r)
	t.list.Store(&list)
	return true
}

// drop closes the routes of which over is true. Packets leave by the host's own socket again.
func (t *routes) drop(over func(*route) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropLocked(over)
}

func (t *routes) dropLocked(over func(*route) bool) {
	var left []*route
	for _, r := range t.all() {
		if over(r) {
			if !r.sock.bound.IsValid() { // the host keeps its ways
				_ = r.sock.conn.Close() // its reader ends
			}
			continue
		}
		left = append(left, r)
	}
	t.list.Store(&left)
}

// passed is told that an authentic check came from an address to the host's own socket. If the hole towards
// there is silent, what goes through it is lost: the peer may not even know of it any more.
func (t *routes) passed(from netip.AddrPort) {
	if r := t.to(from); r != nil && r.quiet() >= routeQuiet {
		t.drop(func(o *route) bool { return o == r })
	}
}

// changed drops the holes of a network that this machine has left. Those that may still be there must be heard
// of soon.
func (t *routes) changed() {
	if len(t.all()) == 0 {
		return
	}
	t.drop(func(r *route) bool {
		now := r.sock.source(r.to)
		return now.IsValid() && now != r.source
	})
	time.AfterFunc(routeQuiet, func() { // harmless when the host is closed
		t.drop(func(r *route) bool { return r.quiet() >= routeQuiet })
	})
}

// close closes all, and what comes later is refused.
func (t *routes) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.dropLocked(func(*route) bool { return true })
}

// source returns the address from which this machine sends to one, as far as IP decides it; invalid if it
// cannot. Connecting a UDP socket sends nothing.
func (s *socket) source(to netip.AddrPort) netip.Addr {
	if s.over != nil {
		a, _ := uplink.Source(true) // invalid if there is none
		return a
	}
	if s.bound.IsValid() {
		return s.bound
	}
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// NetworkChanged tells the host that this machine may be in another network. Holes that bursts made in the
// old one are closed, at once if packets leave from another address now, else if nothing comes through them
// for three seconds.
func (h *Host) NetworkChanged() { h.table.routes.changed() }
