// Package portmap asks the router of the local network to forward a UDP port to this machine, by PCP
// (RFC 6887), NAT-PMP (RFC 6886) or UPnP IGD, keeps the mapping alive and removes it at the end.
//
//	Open ── probe all three at once ── the first that maps, in that order ── found(Mapping)
//	                                      ├─ renewed at half its lifetime, and at once when the router says that
//	                                      │  it has restarted, a check finds the mapping gone, or Renew is called
//	                                      └─ lost and searched again
//
// Routers are taken for sloppy: of what they send only what matters is read, and what they refuse is asked
// for in another way. The local network is taken for hostile: only the default gateway is talked to and
// believed, answers must fit requests, descriptions are fetched from the gateway's own address and without
// proxies, and everything read is bounded.
package portmap

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// A Protocol is one of the three.
type Protocol string

const (
	PCP    Protocol = "PCP"
	NATPMP Protocol = "NAT-PMP"
	UPnP   Protocol = "UPnP"
)

var (
	// ErrNone is a gateway that speaks none of the protocols.
	ErrNone = errors.New("the router offers no port mapping")
	// ErrGateway is a machine without a default gateway.
	ErrGateway = errors.New("there is no default gateway")
	// ErrRefused is a router that speaks a protocol and does not map.
	ErrRefused = errors.New("the router refuses to map the port")
	// ErrSlow is a router that speaks a protocol and did not answer in time.
	ErrSlow = errors.New("the router answers too slowly")
	// ErrUnreadable is a router that offers UPnP, with a description of which nothing can be made.
	ErrUnreadable = errors.New("the router's UPnP description is unreadable")
)

// Config says what to map. Port is required.
type Config struct {
	Port    int        // local UDP port
	Gateway netip.Addr // the router; the zero Addr looks the default gateway up
	Logger  *slog.Logger
}

// A Mapping is a public UDP port that leads to the local one.
type Mapping struct {
	Protocol Protocol
	External netip.AddrPort // it may lie behind a further NAT: see Public; 0.0.0.0 if the router does not tell
}

// Unnamed reports whether the router has mapped the port and does not tell its address. What a STUN server
// sees is the likeliest.
func (m Mapping) Unnamed() bool { return m.External.IsValid() && m.External.Addr().IsUnspecified() }

// Public reports whether the external address is one that the internet can reach, as far as an address
// can tell: a router behind a carrier's NAT maps to a private or shared one (RFC 6598).
func (m Mapping) Public() bool {
	a := m.External.Addr()
	return a.IsGlobalUnicast() && !a.IsPrivate() && !shared.Contains(a)
}

var shared = netip.MustParsePrefix("100.64.0.0/10")

const (
	wantLifetime  = 2 * time.Hour
	leastRenew    = 30 * time.Second
	searchAgain   = 5 * time.Minute  // after there was none
	checkEvery    = 45 * time.Second // whether the router still has the mapping
	probeFor      = 3 * time.Second
	slowFor       = 8 * time.Second // the same for a router that has begun to answer
	answerFor     = 6 * time.Second // of one HTTP request
	addFor        = 10 * time.Second
	preferFor     = 200 * time.Millisecond // how long a better protocol may answer after a worse one did
	removeFor     = time.Second
	portTries     = 4 // external ports tried with UPnP when the wanted one is taken
	leastExternal = 1024
)

// A Mapper keeps one mapping.
type Mapper struct {
	cfg    Config
	log    *slog.Logger
	found  func(Mapping)
	listen func(ctx context.Context, gateway netip.Addr, heard func()) // for announcements
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once
	tried  chan struct{}
	renew  chan struct{} // capacity 1: one request to renew is as good as several

	mu  sync.Mutex
	err error // of the last try
}

// Open begins in the background and returns at once. found is called for the mapping and whenever its
// external address changes, from one goroutine; it must not call Close.
func Open(cfg Config, found func(Mapping)) *Mapper {
	m := &Mapper{cfg: cfg, log: cfg.Logger, found: found, listen: listen, tried: make(chan struct{}), renew: make(chan struct{}, 1)}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.wg.Go(func() { m.run(ctx) })
	return m
}

// Tried is closed when there is a mapping, or none was to be had at the first try.
func (m *Mapper) Tried() <-chan struct{} { return m.tried }

// Close removes the mapping, within a second, and waits for the Mapper's goroutines.
func (m *Mapper) Close() error {
	m.cancel()
	m.wg.Wait()
	return nil
}

// Err says why there is no mapping: ErrNone, ErrGateway, ErrRefused, ErrSlow, ErrUnreadable or what else went
// wrong; nil if there is one, or nothing is known yet.
func (m *Mapper) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *Mapper) setErr(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// Renew asks the router for the mapping again, at once: a peer could not be reached over it, and the router may
// have forgotten it. It does not block.
func (m *Mapper) Renew() {
	select {
	case m.renew <- struct{}{}:
	default:
	}
}

// A method is a protocol that the gateway was seen to speak.
type method interface {
	protocol() Protocol
	// add makes or renews the mapping and returns how long it lives.
	add(ctx context.Context, port, external int) (netip.AddrPort, time.Duration, error)
	// check reports whether the mapping is known to be there, or cannot be asked for. Otherwise add is due.
	check(ctx context.Context, port, external int) bool
	// remove removes what add mapped, or may have mapped. Mappings of others stay.
	remove(ctx context.Context, port, external int) error
}

func (m *Mapper) run(ctx context.Context) {
	var last Mapping
	// Nobody waits longer than this for a router that is slow.
	late := time.AfterFunc(probeFor+time.Second, func() { m.once.Do(func() { close(m.tried) }) })
	defer late.Stop()
	for ctx.Err() == nil {
		wait := searchAgain
		gateway, local, err := route(m.cfg.Gateway)
		if err == nil {
			var methods []method
			methods, err = probe(ctx, gateway, local, preferFor)
			for _, x := range methods {
				var worked bool
				if worked, err = m.keep(ctx, gateway, x, &last); worked {
					wait = leastRenew // it worked for a while
					break
				}
			}
		}
		if errors.Is(err, ErrSlow) || silent(err) {
			wait = leastRenew
		}
		m.setErr(err)
		m.once.Do(func() { close(m.tried) })
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// keep maps the port by x until that fails. A router that is silent is asked again until the mapping's lifetime
// is over. It reports whether it ever worked, and what ended it.
func (m *Mapper) keep(ctx context.Context, gateway netip.Addr, x method, last *Mapping) (worked bool, _ error) {
	external := m.cfg.Port
	var expires time.Time
	listening, stop := context.WithCancel(ctx)
	defer stop()
	for {
		limited, cancel := context.WithTimeout(ctx, addFor)
		addr, life, err := x.add(limited, m.cfg.Port, external)
		cancel()
		wait := leastRenew
		switch {
		case err == nil:
			if !worked && x.protocol() != UPnP {
				m.wg.Go(func() { m.listen(listening, gateway, m.Renew) })
			}
			worked, external, expires = true, int(addr.Port()), time.Now().Add(life)
			wait = max(life/2, leastRenew)
			m.tell(Mapping{x.protocol(), addr}, life, last)
		case worked && !errors.Is(err, ErrRefused) && time.Now().Before(expires) && ctx.Err() == nil:
			m.log.Debug("port mapping not renewed", "protocol", x.protocol(), "err", err)
		default:
			m.log.Debug("port mapping failed", "protocol", x.protocol(), "err", err)
			if worked || ctx.Err() != nil || silent(err) {
				m.remove(x, external)
			}
			return worked, err
		}
		if !m.rest(ctx, x, external, wait) {
			m.remove(x, external)
			return worked, nil
		}
	}
}

// rest waits until the mapping is to be asked for again: so long, or until the router shows or says that it
// may have forgotten it, or Renew is called. It reports false if ctx ends.
func (m *Mapper) rest(ctx context.Context, x method, external int, wait time.Duration) bool {
	over := time.NewTimer(wait)
	defer over.Stop()
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-over.C:
			return true
		case <-m.renew:
			return true
		case <-check.C:
		}
		limited, cancel := context.WithTimeout(ctx, addFor)
		there := x.check(limited, m.cfg.Port, external)
		cancel()
		if !there {
			return true
		}
	}
}

// tell reports a mapping that differs from the last.
func (m *Mapper) tell(now Mapping, life time.Duration, last *Mapping) {
	m.setErr(nil)
	if now == *last {
		return
	}
	*last = now
	m.log.Debug("port mapped", "protocol", now.Protocol, "external", now.External, "lifetime", life)
	m.found(now)
	m.once.Do(func() { close(m.tried) })
}

// silent reports whether err means that nobody answered in time.
func silent(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func (m *Mapper) remove(x method, external int) {
	ctx, cancel := context.WithTimeout(context.Background(), removeFor)
	defer cancel()
	if err := x.remove(ctx, m.cfg.Port, external); err != nil {
		m.log.Debug("port mapping not removed", "protocol", x.protocol(), "err", err) // it times out
	}
}

// probe asks the gateway what it speaks and returns that, best first. Once one has answered, the others
// get so much more time. If there is none, the error says why.
func probe(ctx context.Context, gateway, local netip.Addr, more time.Duration) ([]method, error) {
	ctx, cancel := context.WithTimeout(ctx, slowFor)
	defer cancel()
	probes := []func(context.Context, netip.Addr, netip.Addr) (method, error){probePCP, probePMP, probeUPnP}
	type answer struct {
		rank int
		m    method
		err  error
	}
	answers := make(chan answer, len(probes))
	for i, p := range probes {
		go func() { // ends with ctx, which ends with this call
			x, err := p(ctx, gateway, local)
			answers <- answer{i, x, err}
		}()
	}
	ranked := make([]method, len(probes))
	why := ErrNone
	var hurry <-chan time.Time
	for range probes {
		var a answer
		select {
		case a = <-answers:
		case <-hurry:
			cancel()
			hurry = nil
			a = <-answers
		}
		switch {
		case a.err == nil:
			ranked[a.rank] = a.m
			if hurry == nil {
				hurry = time.After(more)
			}
		case errors.Is(a.err, ErrSlow), errors.Is(a.err, ErrUnreadable), errors.Is(a.err, ErrRefused):
			why = a.err
		}
	}
	got := slices.DeleteFunc(ranked, func(x method) bool { return x == nil })
	if len(got) == 0 {
		return nil, why
	}
	return got, nil
}

// A Report says what a gateway speaks.
type Report struct {
	Gateway   netip.Addr
	Protocols []Protocol
}

// Survey asks the gateway, the default one if it is the zero Addr, what it speaks. It takes up to three
// seconds, eight with a router that begins to answer and does not end, and maps nothing.
func Survey(ctx context.Context, gateway netip.Addr) (Report, error) {
	gateway, local, err := route(gateway)
	if err != nil {
		return Report{}, err
	}
	r := Report{Gateway: gateway}
	// It reports all, so the slow ones get their time too: UPnP takes four round trips and some text.
	methods, err := probe(ctx, gateway, local, probeFor)
	for _, x := range methods {
		r.Protocols = append(r.Protocols, x.protocol())
	}
	return r, err
}

// route returns the gateway, looked up if it is not given, and the local address that it sees.
func route(gateway netip.Addr) (_, local netip.Addr, err error) {
	if !gateway.IsValid() {
		if gateway, err = defaultGateway(); err != nil {
			return gateway, local, err
		}
	}
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(gateway, pcpPort)))
	if err != nil {
		return gateway, local, fmt.Errorf("reach the gateway %v: %w", gateway, err)
	}
	defer c.Close()
	return gateway, c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// exchange sends a request to the gateway's port until accept takes an answer: three times, 250 ms
// apart at first (RFC 6886 §3.1). Answers come from the gateway only: the socket is connected.
func exchange(ctx context.Context, gateway netip.Addr, request []byte, accept func(b []byte) (done bool, err error)) error {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(gateway, pcpPort)))
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	buf := make([]byte, 1100) // RFC 6887 §7
	wait := 250 * time.Millisecond
	for range 3 {
		if _, err = c.Write(request); err != nil && errors.Is(err, net.ErrClosed) {
			break
		}
		_ = c.SetReadDeadline(time.Now().Add(wait)) // fails only when closed
		wait *= 2
		for {
			var n int
			if n, err = c.Read(buf); err != nil {
				break
			}
			if done, err := accept(buf[:n]); done {
				return err
			}
		}
		if ne := net.Error(nil); !errors.As(err, &ne) || !ne.Timeout() {
			break // nobody listens there
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func randomNonce() (n [12]byte) {
	rand.Read(n[:])
	return n
}

func randomPort() int {
	var b [2]byte
	rand.Read(b[:])
	return leastExternal + int(binary.BigEndian.Uint16(b[:]))%(65536-leastExternal)
}
