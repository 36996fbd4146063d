package punch

import "net/netip"

// maxRoutes bounds how many sockets a host has besides its own two: one for each peer that was found
// by a burst. The oldest makes room.
const maxRoutes = 8

// A route says that packets to an address leave by another socket than the host's own, the only one for
// which the NATs in between have a hole.
type route struct {
	to   netip.AddrPort
	sock *socket
}

// via returns the socket that packets to an address leave by, if it is not the host's own.
func (t *table) via(to netip.AddrPort) *socket {
	routes := t.routes.Load()
	if routes == nil {
		return nil
	}
	for i := range *routes {
		if r := &(*routes)[i]; r.to == to {
			return r.sock
		}
	}
	return nil
}

// addRoute makes a socket that of an address, and the host's to close. false means that the host is
// closed.
func (h *Host) addRoute(to netip.AddrPort, s *socket) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	var routes []route
	if old := h.table.routes.Load(); old != nil {
		for _, r := range *old {
			if r.to == to {
				_ = r.sock.conn.Close() // a newer hole was found: the old one is of no use
				continue
			}
			routes = append(routes, r)
		}
	}
	if len(routes) >= maxRoutes {
		_ = routes[0].sock.conn.Close()
		routes = routes[1:]
	}
	routes = append(routes, route{to, s})
	h.table.routes.Store(&routes)
	return true
}

// closeRoutes closes what addRoute took; the host is closed.
func (h *Host) closeRoutes() {
	if routes := h.table.routes.Load(); routes != nil {
		for _, r := range *routes {
			_ = r.sock.conn.Close()
		}
	}
}
