// Package punch finds a direct UDP path between two machines behind NATs. A Host owns one wildcard
// socket for each family of addresses; everything shares them:
//
//	                         STUN ── user fragment, transaction ── Agent (pion/ice), one a generation
//	sockets ── first byte ──┤     └─ transaction ──────────────── STUN client: own mapped addresses
//	                         rest ── the handler, in batches
//
// pion/ice does the connectivity checks of RFC 8445 and nothing else: candidates are gathered here,
// and data goes past it. Each attempt to find a path is a new Agent on the same Host, so that an old
// path carries on until a new one is found.
//
// Not here: relays, port mapping protocols, and whether the peer is who it says it is.
//
// Errors: [ErrPortInUse], [ErrClosed] (a net.ErrClosed), [ErrFailed], [ErrAddress], [ErrTooMany],
// [ErrCredentials], [ErrStarted], [ErrNoAddress].
package punch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"adit/internal/stunmsg"
)

// ErrClosed is returned by the methods of a Host or Agent that was closed.
var ErrClosed = fmt.Errorf("punch: %w", net.ErrClosed)

// Config says how a Host is opened; the zero value works.
type Config struct {
	Port     int          // UDP port; 0 lets the system choose
	STUN     []string     // servers as host:port, at most 16 are used; without any there are host candidates only
	Loopback bool         // loopback addresses are candidates, of either side; so are this host's own
	Logger   *slog.Logger // nil is silent
}

// A Host is a UDP port of this machine with all that finds paths from it. Its methods may be called
// from any goroutine.
type Host struct {
	cfg     Config
	log     *slog.Logger
	socks   [2]*socket             // IPv4, IPv6; nil where the system lacks the family
	through atomic.Pointer[socket] // IPv4 where there is none: nat64.go
	buffer  int
	whole   bool // socket.whole of all
	table   *table
	wg      sync.WaitGroup
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc

	handler atomic.Pointer[func(b []byte, segment int, from netip.AddrPort)]

	refusals refusals

	mu          sync.Mutex
	closed      bool
	stun        []string // servers to ask
	agents      map[*Agent]struct{}
	mapped      map[netip.AddrPort]struct{} // own addresses as STUN servers see them
	blind       string                      // of a STUN server that sees a proxy
	ways        []*socket                   // bound to other addresses: ways.go
	seen        []mapping                   // what they said of the IPv4 socket in the last Gather
	stopRefresh context.CancelFunc
}

// Listen opens the sockets, IPv4 and IPv6 on one port where that can be had. That one family is
// missing is no error. If the port is taken it returns an error that wraps ErrPortInUse.
func Listen(cfg Config) (*Host, error) {
	if cfg.Port < 0 || cfg.Port > 65535 {
		return nil, fmt.Errorf("listen on UDP port %d: not a port number", cfg.Port)
	}
	s4, s6, err := listenPair(cfg.Port)
	if err != nil {
		return nil, err
	}
	h := &Host{
		cfg: cfg, log: cfg.Logger, socks: [2]*socket{s4, s6}, table: newTable(),
		agents: make(map[*Agent]struct{}), mapped: make(map[netip.AddrPort]struct{}),
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	h.SetSTUN(cfg.STUN)
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.whole = true
	for _, s := range h.socks {
		if s == nil {
			continue
		}
		h.whole = h.whole && s.whole
		if h.buffer == 0 || s.buffer < h.buffer {
			h.buffer = s.buffer
		}
		h.wg.Go(func() {
			s.readLoop(h.ctx, func(b []byte, segment int, from netip.AddrPort) {
				h.receive(b, segment, h.through.Load().from(from))
			})
		})
	}
	return h, nil
}

// Port returns the local UDP port: that of the IPv4 socket if there is one.
func (h *Host) Port() int {
	for _, s := range h.socks {
		if s != nil {
			return int(s.port)
		}
	}
	return 0
}

// ReceiveBuffer returns how many bytes may wait in the kernel before it drops: what it granted for
// the smaller of the sockets, as SO_RCVBUF reads. Linux counts the memory around each datagram too,
// 2,304 bytes in all for a full packet; others count what is in it. A peer that keeps more in flight
// than this can lose it.
func (h *Host) ReceiveBuffer() int { return h.buffer }

// DontFragment reports whether what Send takes arrives as it was sent or not at all: the system never
// fragments datagrams, and sets the DF bit of IPv4. Where it is false, what a path takes says nothing
// of its MTU.
func (h *Host) DontFragment() bool { return h.whole }

// SetHandler sets who gets the packets that are not STUN. b holds one or more datagrams of segment
// bytes each, of which the last may be shorter; it is valid during the call only and may be written
// to. from is never IPv4-mapped. The handler is called from one goroutine for each family and must
// not block: the kernel's buffer fills meanwhile. Without a handler packets are dropped.
func (h *Host) SetHandler(f func(b []byte, segment int, from netip.AddrPort)) {
	if f == nil {
		h.handler.Store(nil)
		return
	}
	h.handler.Store(&f)
}

// receive takes what comes in by the host's own sockets.
func (h *Host) receive(b []byte, segment int, from netip.AddrPort) {
	h.receiveOn(nil, nil, b, segment, from)
}

// receiveBy takes what came in by a route.
func (h *Host) receiveBy(by *route, b []byte, segment int, from netip.AddrPort) {
	h.receiveOn(nil, by, b, segment, from)
}

// receiveOn parts STUN from the rest of what came in by a route, or by the host's own sockets if it is nil, or on
// the socket of another way out. The kernel may have put both in one batch if they have the same size and source.
func (h *Host) receiveOn(on *socket, by *route, b []byte, segment int, from netip.AddrPort) {
	if by != nil {
		by.hear(from)
	}
	start := 0 // of what the handler has not seen yet
	for i := 0; i < len(b); i += segment {
		p := b[i:min(i+segment, len(b))]
		if !stunmsg.Is(p) {
			continue
		}
		h.handle(b[start:i], segment, from)
		h.table.deliver(on, by, p, from)
		start = i + len(p)
	}
	h.handle(b[start:], segment, from)
}

func (h *Host) handle(b []byte, segment int, from netip.AddrPort) {
	if f := h.handler.Load(); f != nil && len(b) > 0 {
		(*f)(b, min(segment, len(b)), from)
	}
}

// Send sends the datagrams of segment bytes each that b holds, of which the last may be shorter, to
// one address. It keeps nothing of b. Like the network it may lose datagrams: on Linux it waits 20 ms
// for room in the socket's buffer and then drops the rest, with os.ErrDeadlineExceeded. It goes on
// after an error that concerns one datagram and returns the first such error. A destination of a
// family without a socket is ErrAddress. After Close it returns an error that unwraps to
// net.ErrClosed.
func (h *Host) Send(b []byte, segment int, to netip.AddrPort) error {
	if segment <= 0 {
		return fmt.Errorf("send datagrams of %d bytes: not a size", segment)
	}
	if to.Addr().Is4In6() {
		to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	}
	if r := h.table.routes.to(to); r != nil {
		// If the route was closed this moment, the host was not.
		if err := r.sock.send(b, segment, to); !errors.Is(err, net.ErrClosed) {
			return err
		}
	}
	s, err := h.socketFor(to.Addr())
	if err != nil {
		return err
	}
	return s.send(b, segment, to)
}

// socketFor returns the socket for a family.
func (h *Host) socketFor(a netip.Addr) (*socket, error) {
	s := h.sock(family(a))
	if s == nil || !a.IsValid() {
		return nil, fmt.Errorf("send to %v: no socket for that family: %w", a, ErrAddress)
	}
	return s, nil
}

// Close closes the sockets and all agents and returns when nothing of the Host runs any more. It
// must not be called from the handler.
func (h *Host) Close() error {
	h.mu.Lock()
	first := !h.closed
	h.closed = true
	agents := make([]*Agent, 0, len(h.agents))
	for a := range h.agents {
		agents = append(agents, a)
	}
	h.mu.Unlock()
	h.cancel()
	for _, a := range agents {
		_ = a.Close() // what pion says about it is of no use
	}
	var err error
	for _, s := range h.socks {
		if s == nil || !first {
			continue
		}
		if e := s.conn.Close(); err == nil {
			err = e
		}
	}
	h.closeWays(func(*socket) bool { return false })
	h.table.routes.close()
	h.wg.Wait()
	return err
}
