package netlab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"adit/internal/testtier"
)

var kinds = []NAT{None, FullCone, AddressRestricted, PortRestricted, Symmetric, SymmetricSequential, CGNAT, UDPBlocked}

// A socket is a UDP socket inside a host, for tests.
type socket struct {
	t testing.TB
	net.PacketConn
}

func open(t testing.TB, h *Host, port int) socket {
	t.Helper()
	c, err := h.ListenPacket("udp4", netip.AddrPortFrom(h.Addr(), uint16(port)).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return socket{t, c}
}

func (s socket) addr() netip.AddrPort { return s.LocalAddr().(*net.UDPAddr).AddrPort() }

func (s socket) send(to netip.AddrPort, text string) {
	s.t.Helper()
	if _, err := s.WriteTo([]byte(text), net.UDPAddrFromAddrPort(to)); err != nil {
		s.t.Error(err)
	}
}

// expect waits for text and says from where it came; the zero AddrPort if it does not come.
func (s socket) expect(text string, limit time.Duration) netip.AddrPort {
	s.t.Helper()
	_ = s.SetReadDeadline(time.Now().Add(limit))
	buf := make([]byte, 100)
	for {
		n, from, err := s.ReadFrom(buf)
		if err != nil {
			return netip.AddrPort{}
		}
		if string(buf[:n]) == text {
			return from.(*net.UDPAddr).AddrPort()
		}
	}
}

const (
	soon  = 20 * time.Second       // for what should come
	never = 300 * time.Millisecond // for what should not
)

// TestNATKinds classifies each kind as RFC 4787 does.
func TestNATKinds(t *testing.T) {
	for _, c := range []struct {
		kind    NAT
		mapping string // what the outer address depends on
		filter  string // what it lets in after a packet to one address and port
	}{
		{None, "nothing", "everyone"},
		{FullCone, "nothing", "everyone"},
		{AddressRestricted, "nothing", "the address"},
		{PortRestricted, "nothing", "the port"},
		{Symmetric, "address and port", "the port"},
		{SymmetricSequential, "address and port", "the port"},
		{CGNAT, "nothing", "the port"},
		{UDPBlocked, "blocked", "blocked"},
	} {
		t.Run(c.kind.String(), func(t *testing.T) {
			if c.kind != PortRestricted && c.kind != Symmetric {
				testtier.Long(t)
			}
			t.Parallel()
			l := New(t)
			a, b := l.Public("a"), l.Public("b")
			a1, a2, b1 := open(t, a, 1000), open(t, a, 1001), open(t, b, 1000)
			h := l.Host(c.kind, HostOptions{})
			var mapping, filter string
			for try := range 3 { // on a busy machine what should come may come after never
				mapping, filter = classify(open(t, h, 5000+try), a1, a2, b1)
				if mapping == c.mapping && filter == c.filter {
					break
				}
			}
			if mapping != c.mapping || filter != c.filter {
				t.Errorf("mapping depends on %s, lets in %s; want %s and %s", mapping, filter, c.mapping, c.filter)
			}
		})
	}
}

// TestSequence: one mapping after the other gets the next port, and keeps it.
func TestSequence(t *testing.T) {
	l := New(t)
	server := l.Public("server")
	s := open(t, l.Host(SymmetricSequential, HostOptions{}), 5000)
	var ports []uint16
	for i := range 10 {
		d := open(t, server, 1000+i/2) // each twice
		s.send(d.addr(), "port")
		ports = append(ports, d.expect("port", soon).Port())
		d.Close()
	}
	for i, p := range ports {
		if want := ports[0] + uint16(i/2); p != want {
			t.Errorf("mapping %d: got port %d, want %d; all are %v", i/2, p, want, ports)
		}
	}
}

func classify(s, a1, a2, b1 socket) (mapping, filter string) {
	var m1 netip.AddrPort
	for range 14 { // two seconds. The first may be lost where neighbours do not know each other yet
		s.send(a1.addr(), "one")
		if m1 = a1.expect("one", never/2); m1.IsValid() {
			break
		}
	}
	if !m1.IsValid() {
		return "blocked", "blocked"
	}
	// The filter first, while only a1 has been sent to.
	b1.send(m1, "stranger")
	a2.send(m1, "other port")
	a1.send(m1, "answer")
	got := map[string]bool{}
	buf := make([]byte, 100)
	_ = s.SetReadDeadline(time.Now().Add(never))
	for {
		n, _, err := s.ReadFrom(buf)
		if err != nil {
			break
		}
		got[string(buf[:n])] = true
	}
	switch {
	case !got["answer"]:
		filter = "nothing"
	case got["stranger"] && got["other port"]:
		filter = "everyone"
	case got["other port"]:
		filter = "the address"
	case !got["stranger"]:
		filter = "the port"
	}
	s.send(a2.addr(), "two")
	s.send(b1.addr(), "three")
	m2, m3 := a2.expect("two", soon), b1.expect("three", soon)
	switch {
	case m1 == m2 && m1 == m3:
		mapping = "nothing"
	case m1 == m2:
		mapping = "address"
	case m1 != m3:
		mapping = "address and port"
	}
	return mapping, filter
}

// TestPunchMatrix holds Connects against the real thing for every pair of kinds.
func TestPunchMatrix(t *testing.T) {
	testtier.Long(t)
	l := New(t)
	server := open(t, l.Public("stun"), 3478)
	go func() { // says what address it sees, until the socket closes
		buf := make([]byte, 100)
		for {
			_, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo([]byte("seen "+from.String()), from)
		}
	}()
	left, right := map[NAT]*Host{}, map[NAT]*Host{}
	for _, k := range kinds {
		left[k], right[k] = l.Host(k, HostOptions{}), l.Host(k, HostOptions{})
	}
	// All at once, more than t.Parallel would run: they wait, mostly.
	type result struct {
		a, b NAT
		got  bool
	}
	results, pairs := make(chan result), 0
	for i, a := range kinds {
		for _, b := range kinds[i:] {
			pairs++
			sa, sb := open(t, left[a], 0), open(t, right[b], 0)
			go func() { results <- result{a, b, punch(sa, sb, server.addr())} }()
		}
	}
	for range pairs {
		if r := <-results; r.got != Connects(r.a, r.b) {
			t.Errorf("%v with %v connects: got %v, want %v", r.a, r.b, r.got, !r.got)
		}
	}
}

// punch says whether a and b reach each other, answering whoever writes to them.
func punch(a, b socket, server netip.AddrPort) bool {
	ma, mb := mapped(a, server), mapped(b, server)
	ctx, cancel := context.WithTimeout(context.Background(), 5*never)
	defer cancel()
	done := make(chan bool, 2)
	for _, side := range []struct {
		s    socket
		peer netip.AddrPort
	}{{a, mb}, {b, ma}} {
		go func() {
			ok := false
			defer func() { done <- ok }()
			peer, buf := side.peer, make([]byte, 100)
			for ctx.Err() == nil {
				if peer.IsValid() {
					text := "hello"
					if ok {
						text = "heard"
					}
					side.s.send(peer, text)
				}
				_ = side.s.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				n, from, err := side.s.ReadFrom(buf)
				if err != nil || from.(*net.UDPAddr).AddrPort() == server {
					continue
				}
				peer, ok = from.(*net.UDPAddr).AddrPort(), true
				if string(buf[:n]) == "heard" {
					side.s.send(peer, "heard") // the peer may wait for this one
					return
				}
			}
		}()
	}
	first, second := <-done, <-done
	return first && second
}

func mapped(s socket, server netip.AddrPort) netip.AddrPort {
	buf := make([]byte, 100)
	for range 2 {
		s.send(server, "who am I")
		_ = s.SetReadDeadline(time.Now().Add(never))
		if n, _, err := s.ReadFrom(buf); err == nil {
			if text, ok := strings.CutPrefix(string(buf[:n]), "seen "); ok {
				return netip.MustParseAddrPort(text)
			}
		}
	}
	return netip.AddrPort{} // its own packets are blocked too
}

// TestEarlyPacket: a packet that comes in before the host's own leaves must not take the port away.
func TestEarlyPacket(t *testing.T) {
	l := New(t)
	server, h := open(t, l.Public("server"), 7000), l.Host(PortRestricted, HostOptions{})
	for range 3 {
		server.send(netip.AddrPortFrom(h.PublicAddr(), 5000), "early")
	}
	open(t, h, 5000).send(server.addr(), "hello")
	if from, want := server.expect("hello", soon), netip.AddrPortFrom(h.PublicAddr(), 5000); from != want {
		t.Errorf("mapped to %v, want %v", from, want)
	}
}

func TestSameLAN(t *testing.T) {
	l := New(t)
	h := l.Host(PortRestricted, HostOptions{})
	n := l.SameLAN(h)
	if h.PublicAddr() != n.PublicAddr() || h.Addr() == n.Addr() {
		t.Errorf("addresses: %v %v and %v %v", h.Addr(), h.PublicAddr(), n.Addr(), n.PublicAddr())
	}
	a, b := open(t, h, 5000), open(t, n, 5000)
	a.send(b.addr(), "neighbour")
	if got := b.expect("neighbour", soon); got != a.addr() {
		t.Errorf("neighbour's packet came from %v, want %v", got, a.addr())
	}
}

func TestIPv6(t *testing.T) {
	l := New(t)
	if !haveIPv6() {
		t.Skip("this system has no IPv6")
	}
	server := l.Public("server")
	h, g := l.Host(PortRestricted, HostOptions{IPv6: true}), l.Host(Symmetric, HostOptions{IPv6: true})
	open6 := func(h *Host, port uint16) socket {
		c, err := h.ListenPacket("udp6", netip.AddrPortFrom(h.Addr6(), port).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return socket{t, c}
	}
	s, a, b := open6(server, 7000), open6(h, 5000), open6(g, 5000)
	s.send(a.addr(), "unasked")
	if from := a.expect("unasked", never); from.IsValid() {
		t.Errorf("the router let in an unasked packet from %v", from)
	}
	a.send(s.addr(), "asked")
	if from := s.expect("asked", soon); from != a.addr() {
		t.Errorf("seen as %v, want %v", from, a.addr())
	}
	a.send(b.addr(), "first") // opens a's filter
	b.send(a.addr(), "second")
	if from := a.expect("second", soon); from != b.addr() {
		t.Errorf("between two sites: from %v, want %v", from, b.addr())
	}
}

func TestUplinkDelay(t *testing.T) {
	const delay = 20 * time.Millisecond
	l := New(t, WithUplink(LinkConfig{Delay: delay}))
	a, b := open(t, l.Public("a"), 1000), open(t, l.Host(PortRestricted, HostOptions{}), 1000)
	rtt := roundTrip(t, b, a)
	if rtt < 2*delay || testtier.IsLong() && rtt > 2*delay+10*time.Millisecond {
		t.Errorf("round trip %v, want %v", rtt, 2*delay)
	}
}

// roundTrip is the shortest of a few.
func roundTrip(t testing.TB, a, b socket) time.Duration {
	best := time.Hour
	for range 5 {
		start := time.Now()
		a.send(b.addr(), "ping")
		from := b.expect("ping", soon)
		if !from.IsValid() {
			t.Fatal("no ping")
		}
		b.send(from, "pong")
		if !a.expect("pong", soon).IsValid() {
			t.Fatal("no pong")
		}
		best = min(best, time.Since(start))
	}
	return best
}

func TestCommand(t *testing.T) {
	l := New(t)
	left, right := l.Veth(0)
	out, err := left.Command(t.Context(), "ip", "-o", "-4", "addr", "show", "dev", "eth0").CombinedOutput()
	if err != nil || !strings.Contains(string(out), left.Addr().String()+"/") {
		t.Errorf("inside: %v\n%s", err, out)
	}
	if rtt := roundTrip(t, open(t, left, 1), open(t, right, 1)); rtt > 10*time.Millisecond {
		t.Errorf("round trip over a plain cable: %v", rtt)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := left.Command(ctx, "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := cmd.Wait(); err == nil {
		t.Error("a command outlived its context")
	}
}

// TestCleanup: nothing of a lab is left after its test, a running process included, nor of a
// test process that is gone.
func TestCleanup(t *testing.T) {
	var spaces []string
	t.Run("lab", func(t *testing.T) {
		l := New(t)
		left, _ := l.Link(LinkConfig{Delay: time.Millisecond})
		spaces = l.spaces
		if err := left.Command(context.WithoutCancel(t.Context()), "sleep", "60").Start(); err != nil {
			t.Fatal(err)
		}
	})
	if spaces == nil {
		t.SkipNow() // the lab said why
	}
	stale := fmt.Sprintf("%s%d-%s-1-old", namePrefix, os.Getpid(), "1")
	New(t).ip("netns", "add", stale)
	New(t)
	for _, ns := range append(spaces, stale) {
		if _, err := os.Stat("/run/netns/" + ns); err == nil {
			t.Errorf("namespace %s is left", ns)
		}
	}
}
