package relay

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// samePortTries is how often a free port is looked for that both families have, if none is asked for.
const samePortTries = 10

// Config says how a STUN server behaves. The zero value works.
type Config struct {
	// ExternalIP is the address under which the outside sees this machine, if a NAT with the same
	// ports on both sides (as of a cloud) stands in front. A client on this very machine is told it,
	// for it comes from an address that means nothing elsewhere. It may be left out.
	ExternalIP netip.Addr
	// TURN takes in what is not for the STUN server; nil drops it. The caller closes it after the STUN
	// server, which may have a port on which it is reached.
	TURN *TURN
	// Logger hears when the server ends by itself; nil is silent. Nothing is logged per packet.
	Logger *slog.Logger
}

// STUN is a running STUN server.
type STUN struct {
	cfg     Config
	sockets []*socket
	addr    netip.AddrPort
	local   map[netip.Addr]bool  // this machine's addresses; nil if nobody asks, or they cannot be listed
	other   atomic.Pointer[STUN] // of its pair; nil if it is alone
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
		own, _ := listLocal() // loopback is known anyway
		s.local = own.addrs
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

// Pair makes two servers answer from each other's port where a client asks for that (CHANGE-REQUEST, RFC
// 5780): still to the client alone, and from the address that it asked. Both may be closed in any order;
// what would leave from a closed one is lost.
func Pair(a, b *STUN) {
	a.other.Store(b)
	b.other.Store(a)
}

// twin returns the socket of the pair's other server that answers in place of k: that of its family. It is
// nil if there is none.
func (s *STUN) twin(k *socket) *socket {
	o := s.other.Load()
	if o == nil {
		return nil
	}
	for _, t := range o.sockets {
		if t.is6 == k.is6 {
			return t
		}
	}
	return nil
}

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
	var buf [headroom + maxDatagram + padding]byte
	var out [maxAnswer]byte
	c := client{sock: k}
	if s.cfg.TURN != nil {
		_ = k.conn.SetReadBuffer(socketBuffer * 4) // the system's default will do
		_ = k.conn.SetWriteBuffer(socketBuffer)
	}
	for {
		n, from, to, err := k.read(buf[headroom : headroom+maxDatagram])
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
			if !pause(s.closed) {
				return
			}
			continue
		}
		b := buf[headroom : headroom+n]
		if s.cfg.TURN != nil && n < maxDatagram && !isBinding(b) {
			c.addr, c.local, c.index = from, to.ip, to.ifIndex
			if answer := s.cfg.TURN.packet(&c, buf[:headroom+n], out[:], limit); len(answer) > 0 {
				k.write(answer, from, to)
			}
			continue
		}
		twin := s.twin(k)
		answer, other := respondPaired(out[:0], b, s.seen(from), twin != nil)
		if len(answer) > 0 && limit.allow(from.Addr(), time.Now()) {
			if !other {
				twin = k
			}
			twin.write(answer, from, to)
		}
	}
}

// seen returns what a client is told about its address.
func (s *STUN) seen(from netip.AddrPort) netip.AddrPort {
	ip := from.Addr().Unmap().WithZone("")
	if s.cfg.ExternalIP.IsValid() && ip.Is4() == s.cfg.ExternalIP.Is4() && (ip.IsLoopback() || s.local[ip]) {
		ip = s.cfg.ExternalIP
	}
	return netip.AddrPortFrom(ip, from.Port())
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
