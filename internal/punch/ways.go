package punch

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"adit/internal/uplink"
)

// maxWays bounds how many ways out a host has besides the one that its own sockets take.
const maxWays = 3

// The system chooses where packets of a wildcard socket leave, and from which address: the main route decides.
// A machine with a second uplink often has it behind a rule (ip rule from ADDRESS, two ISPs, a scoped route): it
// takes only what is sent from its address. So each network in which this machine has an address gets a socket
// that is bound to that address, and STUN servers are asked from there. It is a way out of its own if they see
// another address than that of the main route: then the peer is told what they saw, agents check from there, and
// packets over a pair that ICE chose there leave there.
//
// No packet is forced out of an interface: a VPN that takes everything keeps everything.

// openWays opens the sockets of ways that are not there yet, and closes those whose address is gone.
func (h *Host) openWays() []*socket {
	nets, err := uplink.Nets(h.cfg.Loopback)
	if err != nil {
		return nil // hostCandidates has said so
	}
	want := uplink.Ways(nets, func(v6 bool) netip.Addr { a, _ := uplink.Source(v6); return a })
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.ways = slices.DeleteFunc(h.ways, func(s *socket) bool {
		gone := !slices.ContainsFunc(nets, func(n netip.Prefix) bool { return n.Addr() == s.bound })
		if gone {
			_ = s.conn.Close() // its reader ends
		}
		return gone
	})
	for _, a := range want {
		if len(h.ways) >= maxWays || slices.ContainsFunc(h.ways, func(s *socket) bool { return s.bound == a }) || h.socks[family(a)] == nil {
			continue
		}
		s, err := listenBound(a)
		if err != nil {
			h.log.Debug("no socket for another way out", "addr", a, "err", err)
			continue
		}
		h.ways = append(h.ways, s)
		h.wg.Go(func() {
			s.readLoop(h.ctx, func(b []byte, segment int, from netip.AddrPort) {
				by := h.table.routes.to(from)
				if by != nil && by.sock != s {
					by = nil
				}
				h.receiveOn(s, by, b, segment, from)
			})
		})
	}
	return slices.Clone(h.ways)
}

// listenBound opens a socket whose packets leave from one address.
func listenBound(a netip.Addr) (*socket, error) {
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(context.Background(), network(a.Is6()), net.JoinHostPort(a.String(), strconv.Itoa(0)))
	if err != nil {
		return nil, err
	}
	s, err := newSocket(pc.(*net.UDPConn), a.Is6())
	if err != nil {
		return nil, err
	}
	s.bound = a
	return s, nil
}

// askWays asks the servers from each of the ways. tell is called once for each, with the first answer or an
// error. What it starts ends with ctx; wg counts it.
func (h *Host) askWays(ctx context.Context, wg *sync.WaitGroup, ways []*socket, servers []string, tell func(mapping, error)) {
	for _, s := range ways {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			type result struct {
				mapping
				err error
			}
			results := make(chan result, len(servers)) // room for all
			for _, server := range servers {
				wg.Go(func() {
					addrs, err := resolve(ctx, server)
					to := addrs[family(s.bound)]
					if err == nil && !to.IsValid() {
						err = errSTUN
					}
					var mapped netip.AddrPort
					if err == nil {
						mapped, err = h.query(ctx, s, to)
					}
					results <- result{mapping{s, to, mapped}, err}
				})
			}
			err := errors.New("no STUN server")
			for range servers {
				r := <-results
				if r.err == nil {
					tell(r.mapping, nil)
					return
				}
				err = r.err
			}
			tell(mapping{}, err)
		})
	}
}

// closeWays closes the sockets of the ways that lead nowhere new.
func (h *Host) closeWays(keep func(*socket) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ways = slices.DeleteFunc(h.ways, func(s *socket) bool {
		if keep(s) {
			return false
		}
		_ = s.conn.Close() // its reader ends
		return true
	})
}

// wayAt returns the way with a local address, or nil.
func (h *Host) wayAt(local netip.AddrPort) *socket {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.ways {
		if s.bound == local.Addr() && s.port == local.Port() {
			return s
		}
	}
	return nil
}

// take has packets to a pair's remote address leave where ICE checked from.
func (h *Host) take(p Pair) {
	to := p.Remote.Addr
	if s := h.wayAt(p.Local.Addr); s != nil {
		h.log.Info("packets to the peer leave by another way than the main route", "from", p.Local.Addr, "to", to)
		h.table.routes.add(newRoute(to, s))
		return
	}
	h.table.routes.drop(func(r *route) bool { return r.to == to && r.sock.bound.IsValid() })
}
