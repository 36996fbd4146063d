package relay

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/pion/stun"

	"adit/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func start(t *testing.T, addr string, cfg Config) *STUN {
	t.Helper()
	s, err := ListenSTUN(addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// ask sends a packet and returns the response, and where it was sent from.
func ask(t *testing.T, network, to string, packet []byte) ([]byte, netip.AddrPort) {
	t.Helper()
	c, err := net.Dial(network, to) // connected: a response from another address does not arrive
	if err != nil {
		t.Skipf("no %s here: %v", network, err)
	}
	defer c.Close()
	if _, err := c.Write(packet); err != nil {
		t.Skipf("no %s here: %v", network, err)
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 1500)
	n, err := c.Read(b)
	if err != nil {
		t.Fatalf("no answer from %s: %v", to, err)
	}
	return b[:n], c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// mapped returns the address in a response, as another implementation reads it.
func mapped(t *testing.T, request *stun.Message, response []byte) netip.AddrPort {
	t.Helper()
	m := &stun.Message{Raw: response}
	if err := m.Decode(); err != nil {
		t.Fatal(err)
	}
	if m.Type != stun.BindingSuccess || m.TransactionID != request.TransactionID {
		t.Fatalf("got %v, want the success of %v", m, request)
	}
	var x stun.XORMappedAddress
	if err := x.GetFrom(m); err != nil {
		t.Fatal(err)
	}
	ip, _ := netip.AddrFromSlice(x.IP)
	return netip.AddrPortFrom(ip.Unmap(), uint16(x.Port))
}

func TestServer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, listen, network, host string }{
		{"ipv4", "127.0.0.1:0", "udp4", "127.0.0.1"},
		{"ipv6", "[::1]:0", "udp6", "::1"},
		{"both by ipv4", ":0", "udp4", "127.0.0.1"},
		{"both by ipv6", ":0", "udp6", "::1"},
		{"any ipv4", "0.0.0.0:0", "udp4", "127.0.0.1"},
		{"another address of ours", ":0", "udp4", "127.0.0.2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.host == "127.0.0.2" && runtime.GOOS != "linux" {
				t.Skip("only Linux has all of 127.0.0.0/8 by itself")
			}
			if c.network == "udp6" {
				l, err := net.ListenPacket("udp6", "[::1]:0")
				if err != nil {
					t.Skipf("no IPv6 here: %v", err)
				}
				l.Close()
			}
			s := start(t, c.listen, Config{})
			port := netip.AddrPortFrom(netip.MustParseAddr(c.host), s.Addr().Port())
			for _, setters := range [][]stun.Setter{
				{stun.TransactionID, stun.BindingRequest},
				{stun.TransactionID, stun.BindingRequest, stun.NewSoftware("x"), stun.Fingerprint},
				{stun.TransactionID, stun.BindingRequest, stun.NewUsername("a:b"), stun.NewShortTermIntegrity("p"), stun.Fingerprint},
			} {
				request := stun.MustBuild(setters...)
				response, from := ask(t, c.network, port.String(), request.Raw)
				if got := mapped(t, request, response); got != from {
					t.Errorf("got %v, want %v", got, from)
				}
				if len(response) > maxResponse {
					t.Errorf("response of %d bytes, want %d at most", len(response), maxResponse)
				}
			}
		})
	}
}

func TestSamePort(t *testing.T) {
	t.Parallel()
	s := start(t, ":0", Config{})
	if len(s.sockets) < 2 {
		t.Skip("only one family here")
	}
	a := s.sockets[0].conn.LocalAddr().(*net.UDPAddr).Port
	b := s.sockets[1].conn.LocalAddr().(*net.UDPAddr).Port
	if a != b || int(s.Addr().Port()) != a {
		t.Errorf("ports %d and %d, Addr %v: want one port", a, b, s.Addr())
	}
}

func TestExternalIP(t *testing.T) {
	t.Parallel()
	s := start(t, "127.0.0.1:0", Config{ExternalIP: netip.MustParseAddr("203.0.113.7")})
	request := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
	response, from := ask(t, "udp4", s.Addr().String(), request.Raw)
	if got, want := mapped(t, request, response), netip.AddrPortFrom(s.cfg.ExternalIP, from.Port()); got != want {
		t.Errorf("a client on this machine: got %v, want %v", got, want)
	}
	for _, other := range []string{"198.51.100.1:5", "[2001:db8::1]:5", "[::1]:5"} {
		if a := netip.MustParseAddrPort(other); s.seen(a) != a {
			t.Errorf("seen(%v) = %v, want it as it is", a, s.seen(a))
		}
	}
}

func TestListenFails(t *testing.T) {
	t.Parallel()
	s := start(t, "127.0.0.1:0", Config{})
	for _, addr := range []string{s.Addr().String(), "127.0.0.1", "127.0.0.1:x", "192.0.2.1:0"} {
		if s, err := ListenSTUN(addr, Config{}); err == nil {
			s.Close()
			t.Errorf("ListenSTUN(%q) succeeded", addr)
		}
	}
}

func TestCloseTwice(t *testing.T) {
	t.Parallel()
	s := start(t, ":0", Config{})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A flood from one address is answered within bounds, and does not keep others from an answer.
func TestLimiter(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	l := newLimiter()
	flood, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	n := 0
	for range 10_000 {
		if l.allow(flood, now) {
			n++
		}
	}
	if n != perSourceBurst {
		t.Errorf("%d responses at once, want %d", n, perSourceBurst)
	}
	if !l.allow(other, now) {
		t.Error("another address is refused")
	}
	if l.allow(flood, now.Add(time.Millisecond)) || !l.allow(flood, now.Add(time.Second)) {
		t.Error("the bucket does not fill as it should")
	}
	a, b := netip.MustParseAddr("2001:db8:0:1::1"), netip.MustParseAddr("2001:db8:0:ff::9")
	for l.allow(a, now.Add(time.Minute)) {
	}
	if l.allow(b, now.Add(time.Minute)) {
		t.Error("an address of the same /56 has a bucket of its own")
	}
	for i := range 3 * maxSources {
		var raw [4]byte
		binary.BigEndian.PutUint32(raw[:], uint32(i))
		l.allow(netip.AddrFrom4(raw), now)
	}
	if len(l.known) > maxSources || l.recent.Len() != len(l.known) {
		t.Errorf("%d addresses and %d places, want %d at most", len(l.known), l.recent.Len(), maxSources)
	}
	if l.allow(netip.Addr{}, now) {
		t.Error("no address is answered")
	}
}

func TestSilence(t *testing.T) {
	t.Parallel()
	from := netip.MustParseAddrPort("192.0.2.1:4000")
	request := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewSoftware("adit"), stun.Fingerprint).Raw
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(request)) }
	if len(respond(nil, request, from)) == 0 {
		t.Fatal("a good request is not answered")
	}
	for _, c := range []struct {
		name   string
		packet []byte
	}{
		{"empty", nil},
		{"short", request[:19]},
		{"cut", request[:len(request)-4]},
		{"trailing", append(bytes.Clone(request), 0, 0, 0, 0)},
		{"fingerprint", edit(func(b []byte) []byte { b[len(b)-1] ^= 1; return b })},
		{"changed", edit(func(b []byte) []byte { b[25] ^= 1; return b })},
		{"cookie", edit(func(b []byte) []byte { b[4] ^= 1; return b })},
		{"indication", edit(func(b []byte) []byte { b[1] |= 0x10; return b })},
		{"success", stun.MustBuild(stun.TransactionID, stun.BindingSuccess).Raw},
		{"failure", stun.MustBuild(stun.TransactionID, stun.BindingError).Raw},
		{"allocate", stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest)).Raw},
		{"too long", stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.RawAttribute{Type: 0x8022, Value: make([]byte, 1600)}).Raw},
		{"attribute too long", edit(func(b []byte) []byte { b[22] = 0xff; return b })},
		{"our own response", respond(nil, request, from)},
	} {
		if got := respond(nil, c.packet, from); len(got) != 0 {
			t.Errorf("%s: answered with %x", c.name, got)
		}
	}
}

func TestUnknownAttribute(t *testing.T) {
	t.Parallel()
	request := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.RawAttribute{Type: 0x0003, Value: make([]byte, 4)}) // CHANGE-REQUEST
	m := &stun.Message{Raw: respond(nil, request.Raw, netip.MustParseAddrPort("192.0.2.1:4000"))}
	if err := m.Decode(); err != nil {
		t.Fatal(err)
	}
	var code stun.ErrorCodeAttribute
	err := m.Parse(&code)
	attrs, _ := m.Get(stun.AttrUnknownAttributes)
	if err != nil || code.Code != stun.CodeUnknownAttribute || !bytes.Equal(attrs, []byte{0, 3}) {
		t.Errorf("got %v, %v, %v, want error 420 about attribute 3", code, attrs, err)
	}
}

func TestRespondAllocatesNothing(t *testing.T) {
	request := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.Fingerprint).Raw
	from := netip.MustParseAddrPort("[2001:db8::1]:4000")
	var out [maxResponse]byte
	if n := testing.AllocsPerRun(100, func() { respond(out[:0], request, from) }); n != 0 {
		t.Errorf("respond allocates %v times, want 0", n)
	}
}

// Garbage over the wire is not answered; what comes after it is.
func TestGarbage(t *testing.T) {
	t.Parallel()
	s := start(t, "127.0.0.1:0", Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "udp4", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, size := range []int{0, 1, 20, 548, 549, 1400, 9000} {
		if _, err := c.Write(bytes.Repeat([]byte{0xA5}, size)); err != nil {
			t.Fatal(err)
		}
	}
	request := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
	if _, err := c.Write(request.Raw); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 1500)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	mapped(t, request, b[:n]) // the first that comes back belongs to the last that was sent
}

func FuzzRespond(f *testing.F) {
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw, false)
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewSoftware("x"), stun.Fingerprint).Raw, true)
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.RawAttribute{Type: 3, Value: make([]byte, 4)}).Raw, true)
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingSuccess).Raw, true)
	f.Add([]byte("GET / HTTP/1.1"), false)
	f.Fuzz(func(t *testing.T, packet []byte, v6 bool) {
		from := netip.MustParseAddrPort("192.0.2.1:4000")
		if v6 {
			from = netip.MustParseAddrPort("[2001:db8::1]:4000")
		}
		before := bytes.Clone(packet)
		if answer, _ := respondPaired(nil, packet, from, true); len(answer) > maxResponse {
			t.Fatalf("response of %d bytes", len(answer))
		}
		answer := respond(nil, packet, from)
		if !bytes.Equal(packet, before) {
			t.Fatal("the packet was changed")
		}
		if len(answer) == 0 {
			return
		}
		if len(answer) > maxResponse {
			t.Fatalf("response of %d bytes", len(answer))
		}
		request, m := &stun.Message{Raw: packet}, &stun.Message{Raw: answer}
		if err := request.Decode(); err != nil || request.Type != stun.BindingRequest {
			t.Fatalf("answered %x: %v", packet, err)
		}
		if _, signed := request.Attributes.Get(stun.AttrFingerprint); signed && stun.Fingerprint.Check(request) != nil {
			t.Fatalf("answered %x, whose fingerprint is wrong", packet)
		}
		if err := m.Decode(); err != nil || m.TransactionID != request.TransactionID {
			t.Fatalf("answer %x: %v", answer, err)
		}
		if m.Type == stun.BindingSuccess && mapped(t, request, answer) != from {
			t.Fatalf("answer %x has another address", answer)
		}
		if len(respond(nil, answer, from)) != 0 {
			t.Fatal("two servers would answer each other for ever")
		}
	})
}
