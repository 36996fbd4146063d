// Package doctor finds out what the network allows: which paths a peer could have to this machine, and what
// stands in the way.
//
//	            ┌ interfaces, buffers
//	            ├ port mapping ──────────────────────────────────┐
//	Run ────────┤              ┌ relays: one allocation each ────┤
//	            └ rendezvous ──┤                                 ├── verdict
//	              (4 s at most)└ STUN, each family: mapping ──┬──┘
//	                             filtering, hairpin, pattern, │
//	                             MTU, hops ───────────────────┘
//
// Everything runs side by side and is over in [Limit]. Each test has a socket of its own, so that none
// opens a NAT for another. Nothing is sent but to the configured servers, the gateway and this machine's
// own public address. It prints nothing and knows no flags.
package doctor

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"adit/internal/portmap"
	"adit/internal/punch"
	"adit/signal"
)

// Limit is how long a Run takes at most.
const Limit = 9500 * time.Millisecond

const (
	rendezvousFor = 4 * time.Second
	portMapFor    = 9 * time.Second // a slow router; others take some milliseconds
	relayFor      = 5 * time.Second
	maxServers    = 8
)

// Config says what to test. The zero value works: it knows no servers, and finds out little.
type Config struct {
	Signal   string   // URL of a rendezvous; "" for none
	STUN     []string // servers, HOST:PORT, besides those of the rendezvous
	Fallback []string // servers where there are no others
	TURN     []signal.TURNServer
	Port     int         // UDP port of the socket whose mapping is tested; 0 lets the system choose
	NoPorts  bool        // do not ask the router to map one
	Loopback bool        // loopback addresses count
	TLS      *tls.Config // for relays; nil is the system's roots

	// DialRelay connects to TURN servers; nil is reach.DialThrough.
	DialRelay func(ctx context.Context, network, address string) (net.Conn, error)

	Logger *slog.Logger // nil is silent
}

// A run is one examination. Each part of the report is written by one goroutine.
type run struct {
	cfg    Config
	report *Report
	own    map[netip.Addr]bool
	offer  []string // STUN servers of the rendezvous
}

// Run makes all tests. It takes ctx's time or [Limit], whichever is shorter, and always returns a report:
// what did not work is in it.
func Run(ctx context.Context, cfg Config) *Report {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	r := &run{cfg: cfg, report: &Report{STUN: []Server{}, Relays: []Relay{}, Interfaces: []Interface{}}, own: make(map[netip.Addr]bool)}
	r.interfaces()
	var wg sync.WaitGroup
	wg.Go(r.system)
	wg.Go(func() { r.ports(ctx) })
	var hops string
	wg.Go(func() {
		r.rendezvous(ctx)
		wg.Go(func() { r.relays(ctx) })
		hops = r.stun(ctx)
	})
	wg.Wait()
	r.nameMapping()
	r.carrier(hops)
	r.report.clean()
	r.report.judge()
	r.report.Seconds = float64(time.Since(began).Milliseconds()) / 1000
	return r.report
}

// interfaces lists what candidates would come from.
func (r *run) interfaces() {
	all, err := punch.Interfaces(r.cfg.Loopback)
	if err != nil {
		r.cfg.Logger.Info("no list of interfaces", "err", err)
		return
	}
	for _, i := range all {
		r.report.Interfaces = append(r.report.Interfaces, Interface(i))
		for _, a := range i.Addrs {
			r.own[a] = true
			if i.Used {
				f := &r.report.IPv4
				if a.Is6() {
					f = &r.report.IPv6
				}
				f.Address = true
			}
		}
	}
}

// system opens the sockets that a session would have.
func (r *run) system() {
	h, err := punch.Listen(punch.Config{Logger: r.cfg.Logger})
	if err != nil {
		r.report.System.Error = err.Error()
		return
	}
	defer h.Close()
	s := &r.report.System
	s.ReceiveBuffer, s.DontFragment = h.ReceiveBuffer(), h.DontFragment()
	s.SendOffload, s.RecvOffload = h.Offload()
}

// ports asks the gateway what it speaks, and for one mapping, which is given back.
func (r *run) ports(ctx context.Context) {
	p := &r.report.Ports
	if r.cfg.NoPorts {
		p.Error = "not asked for"
		return
	}
	ctx, cancel := context.WithTimeout(ctx, portMapFor)
	defer cancel()
	survey, err := portmap.Survey(ctx, netip.Addr{})
	p.Gateway, p.Protocols = survey.Gateway, survey.Protocols
	if err != nil {
		p.Error = err.Error()
		return
	}
	s, err := listen(way{}, 0) // a port of our own, so that it is nobody else's that is mapped
	if err != nil {
		p.Error = err.Error()
		return
	}
	defer s.close()
	found := make(chan portmap.Mapping, 1)
	m := portmap.Open(portmap.Config{Port: int(s.port()), Gateway: survey.Gateway, Logger: r.cfg.Logger}, func(m portmap.Mapping) {
		select {
		case found <- m:
		default: // one is enough
		}
	})
	defer m.Close()
	select {
	case <-ctx.Done():
	case <-m.Tried():
	}
	select {
	case m := <-found:
		p.External, p.Public = m.External, m.Public()
	default:
		p.Error = portmap.ErrSlow.Error()
		if err := m.Err(); err != nil {
			p.Error = err.Error()
		}
	}
}

// nameMapping completes a mapping of a router that does not tell its address by the one that a server saw.
func (r *run) nameMapping() {
	p, seen := &r.report.Ports, r.report.IPv4.Public
	if p.External.IsValid() && p.External.Addr().IsUnspecified() && len(seen) > 0 {
		p.External = netip.AddrPortFrom(seen[0].Addr(), p.External.Port())
		p.Public = portmap.Mapping{External: p.External}.Public()
	}
}

// carrier says whether there is a NAT behind the one of the router.
func (r *run) carrier(hops string) {
	for _, i := range r.report.Interfaces {
		for _, a := range i.Addrs {
			if shared.Contains(a) && i.Used && r.report.IPv4.Mapping != Unmapped {
				r.report.Carrier = "this machine has " + a.String() + ", an address of a carrier's NAT"
				return
			}
		}
	}
	if p := r.report.Ports; p.External.IsValid() && !p.Public {
		r.report.Carrier = "the router's own address is " + p.External.Addr().String()
		return
	}
	r.report.Carrier = hops
}

// shared are the addresses between customers and a carrier's NAT (RFC 6598).
var shared = netip.MustParsePrefix("100.64.0.0/10")

// unique keeps the first of equal ones, in order.
func unique[T comparable](all []T) []T {
	var out []T
	for _, x := range all {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
