package relay

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// samePortTries is how often a free port is looked for that both families have, if none is asked for.
const samePortTries = 10

// Config says how a STUN server behaves. The zero value works.
type Config struct {
	// ExternalIP is the address under which the outside sees this machine, if a NAT with the same
	// ports on both sides (as of a cloud) stands in front. A client on this very machine is told it,
	// for it comes from an address that means nothing elsewhere. It may be left out.
	ExternalIP netip.Addr
	// Logger hears when the server ends by itself; nil is silent. Nothing is logged per packet.
	Logger *slog.Logger
}

// STUN is a running STUN server.
type STUN struct {
	cfg     Config
	sockets []*socket
	addr    netip.AddrPort
	local   map[netip.Addr]bool // this machine's addresses; nil if nobody asks
	closed  chan struct{}
	close   sync.Once
	wg      sync.WaitGroup
}

// ListenSTUN starts a STUN server on a UDP address: on IPv4 and IPv6 if its host is empty or has both
// and the system knows both, and on one of them otherwise. With port 0 both get the same free port. The
// caller closes it.
func ListenSTUN(addr string, cfg Config) (*STUN, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	conns, err := listen(addr)
	if err != nil {
		return nil, fmt.Errorf("listen for stun on %s: %w", addr, err)
	}
	s := &STUN{cfg: cfg, closed: make(chan struct{})}
	if cfg.ExternalIP.IsValid() {
		s.cfg.ExternalIP = cfg.ExternalIP.Unmap()
		s.local = localAddrs()
	}
	s.addr = conns[0].LocalAddr().(*net.UDPAddr).AddrPort()
	s.addr = netip.AddrPortFrom(s.addr.Addr().Unmap(), s.addr.Port())
	for _, c := range conns {
		k := newSocket(c)
		s.sockets = append(s.sockets, k)
		s.wg.Go(func() { s.serve(k) })
	}
	return s, nil
}

// Addr returns the address that it listens on: that of IPv4, if it listens on both.
func (s *STUN) Addr() netip.AddrPort { return s.addr }

// Close stops the server and waits until it has stopped.
func (s *STUN) Close() error {
	var errs []error
	s.close.Do(func() {
		close(s.closed)
		for _, k := range s.sockets {
			errs = append(errs, k.conn.Close())
		}
	})
	s.wg.Wait()
	return errors.Join(errs...)
}

// serve answers what comes in at one socket.
func (s *STUN) serve(k *socket) {
	limit := newLimiter()
	var in [maxRequestBytes + 1]byte // one more, so that what is too long shows
	var out [maxResponse]byte
	for {
		n, from, to, err := k.read(in[:])
		if err != nil {
			select {
			case <-s.closed:
				return
			default:
			}
			if errors.Is(err, net.ErrClosed) {
				s.cfg.Logger.Error("the stun server has lost its socket", "addr", s.addr, "err", err)
				return
			}
			// A packet of ours was refused somewhere, or one was too long for the buffer (Windows
			// reports both here); or memory is short. None of it lasts, and none may spin.
			select {
			case <-s.closed:
				return
			case <-time.After(time.Millisecond):
			}
			continue
		}
		answer := respond(out[:0], in[:n], s.seen(from))
		if len(answer) > 0 && limit.allow(from.Addr(), time.Now()) {
			k.write(answer, from, to)
		}
	}
}

// seen returns what a client is told about its address.
func (s *STUN) seen(from netip.AddrPort) netip.AddrPort {
	ip := from.Addr().Unmap().WithZone("")
	if s.local != nil && ip.Is4() == s.cfg.ExternalIP.Is4() && (ip.IsLoopback() || s.local[ip]) {
		ip = s.cfg.ExternalIP
	}
	return netip.AddrPortFrom(ip, from.Port())
}

func localAddrs() map[netip.Addr]bool {
	local := make(map[netip.Addr]bool)
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return local // loopback is known anyway
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				local[ip.Unmap()] = true
			}
		}
	}
	return local
}

// listen opens the sockets for an address, at least one.
func listen(addr string) ([]*net.UDPConn, error) {
	var err error
	for range samePortTries {
		var conns []*net.UDPConn
		var taken bool
		conns, taken, err = listenBoth(addr)
		if err == nil || !taken {
			return conns, err
		}
	}
	return nil, err
}

// listenBoth opens a socket for each family that addr has. taken says that a free port of one family
// was not free in the other.
func listenBoth(addr string) (conns []*net.UDPConn, taken bool, err error) {
	a4, err4 := net.ResolveUDPAddr("udp4", addr)
	a6, err6 := net.ResolveUDPAddr("udp6", addr)
	if err4 != nil && err6 != nil {
		return nil, false, err4
	}
	if err4 == nil {
		var c *net.UDPConn
		if c, err4 = net.ListenUDP("udp4", a4); err4 == nil {
			conns = append(conns, c)
		}
	}
	if err6 == nil {
		free := a6.Port == 0 && len(conns) > 0
		if free {
			a6.Port = conns[0].LocalAddr().(*net.UDPAddr).Port
		}
		var c *net.UDPConn
		if c, err6 = net.ListenUDP("udp6", a6); err6 == nil {
			conns = append(conns, c)
		} else if len(conns) > 0 && addrInUse(err6) {
			_ = conns[0].Close() // half a server is worse than an error that says why
			return nil, free, err6
		}
	}
	switch {
	case len(conns) == 0 && err4 != nil:
		return nil, false, err4
	case len(conns) == 0:
		return nil, false, err6
	case err4 != nil && addrInUse(err4):
		_ = conns[0].Close()
		return nil, false, err4
	}
	return conns, false, nil // a family that the system does not have is no error
}

// A socket reads and writes packets, each with the local address it came to: on a machine with several
// addresses an answer from another one would not pass the client's NAT.
type socket struct {
	conn *net.UDPConn
	p4   *ipv4.PacketConn // nil unless control messages work
	p6   *ipv6.PacketConn
}

func newSocket(c *net.UDPConn) *socket {
	k := &socket{conn: c}
	local := c.LocalAddr().(*net.UDPAddr)
	if !local.IP.IsUnspecified() {
		return k // there is only one address
	}
	if local.IP.To4() != nil {
		if p := ipv4.NewPacketConn(c); p.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true) == nil {
			k.p4 = p
		}
	} else if p := ipv6.NewPacketConn(c); p.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true) == nil {
		k.p6 = p
	}
	return k
}

// destination is where a packet came to, as far as the system tells.
type destination struct {
	ip      net.IP
	ifIndex int
}

func (k *socket) read(b []byte) (n int, from netip.AddrPort, to destination, err error) {
	var addr net.Addr
	switch {
	case k.p4 != nil:
		var cm *ipv4.ControlMessage
		if n, cm, addr, err = k.p4.ReadFrom(b); cm != nil {
			to = destination{cm.Dst, cm.IfIndex}
		}
	case k.p6 != nil:
		var cm *ipv6.ControlMessage
		if n, cm, addr, err = k.p6.ReadFrom(b); cm != nil {
			to = destination{cm.Dst, cm.IfIndex}
		}
	default:
		n, from, err = k.conn.ReadFromUDPAddrPort(b)
		return n, from, to, err
	}
	if u, ok := addr.(*net.UDPAddr); ok && err == nil {
		from = u.AddrPort()
	}
	return n, from, to, err
}

// write sends a response. A client that does not get it asks again, so errors do not matter.
func (k *socket) write(b []byte, from netip.AddrPort, to destination) {
	switch {
	case to.ip == nil || to.ip.IsUnspecified():
		_, _ = k.conn.WriteToUDPAddrPort(b, from)
	case to.ip.IsMulticast() || to.ip.Equal(net.IPv4bcast):
		// One request shall not make a whole network answer.
	case k.p4 != nil:
		_, _ = k.p4.WriteTo(b, &ipv4.ControlMessage{Src: to.ip}, net.UDPAddrFromAddrPort(from))
	case k.p6 != nil:
		cm := &ipv6.ControlMessage{Src: to.ip}
		if to.ip.IsLinkLocalUnicast() {
			cm.IfIndex = to.ifIndex
		}
		_, _ = k.p6.WriteTo(b, cm, net.UDPAddrFromAddrPort(from))
	}
}
