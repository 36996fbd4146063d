package relay

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/pion/stun"
	pion "github.com/pion/turn/v2"

	"adit/internal/stunmsg"
	"adit/internal/turn"
)

var secret = []byte("a secret of the tests")

var loopbackOpen = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}

// A server is a TURN server that listens in each way.
type server struct {
	*TURN
	udp, tcp, tls netip.AddrPort
	roots         *tls.Config
	certificates  []tls.Certificate
}

func startTURN(t testing.TB, cfg TURNConfig) *server {
	t.Helper()
	return startTURNAt(t, cfg, time.Now)
}

func startTURNAt(t testing.TB, cfg TURNConfig, now func() time.Time) *server {
	t.Helper()
	cfg.Secret = secret
	s, err := newTURN(cfg, now)
	if err != nil {
		t.Fatal(err)
	}
	udp, err := ListenSTUN("127.0.0.1:0", Config{TURN: s})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewUnstartedServer(nil) // for its certificate
	web.StartTLS()
	client := web.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	cert := web.TLS.Certificates
	web.Close()
	client.ServerName = "example.com"
	out := &server{TURN: s, udp: udp.Addr(), roots: client, certificates: cert}
	done := make(chan error, 2)
	listen := func(wrap func(net.Listener) net.Listener) netip.AddrPort {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() { done <- s.Serve(wrap(l)) }()
		return l.Addr().(*net.TCPAddr).AddrPort()
	}
	out.tcp = listen(func(l net.Listener) net.Listener { return l })
	out.tls = listen(func(l net.Listener) net.Listener { return tls.NewListener(l, &tls.Config{Certificates: cert}) })
	t.Cleanup(func() {
		if err := errors.Join(udp.Close(), s.Close(), <-done, <-done); err != nil {
			t.Error(err)
		}
		if n := s.Allocations(); n != 0 {
			t.Errorf("%d allocations after the end", n)
		}
		if len(s.users)+len(s.sources)+len(s.streams)+len(s.streamsFrom)+len(s.relayed)+s.count != 0 {
			t.Errorf("something is left: %v %v %v", s.users, s.sources, s.relayed)
		}
	})
	return out
}

// username returns one that is good for some time.
func username(id string, life time.Duration) string {
	return strconv.FormatInt(time.Now().Add(life).Unix(), 10) + ":" + id
}

func (s *server) access(transport, id string) turn.Config {
	url := map[string]string{
		"udp": fmt.Sprintf("turn:%v?transport=udp", s.udp),
		"tcp": fmt.Sprintf("turn:%v?transport=tcp", s.tcp),
		"tls": fmt.Sprintf("turns:%v?transport=tcp", s.tls),
	}[transport]
	user := username(id, time.Hour)
	return turn.Config{Server: turn.Server{URL: url, Username: user, Password: Password(secret, user)}, TLS: s.roots}
}

func allocateOn(t testing.TB, cfg turn.Config) (*turn.Allocation, <-chan string) {
	t.Helper()
	a, err := turn.Allocate(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	got := make(chan string, 1000) // more than any test sends
	a.SetHandler(func(b []byte, _ int, from netip.AddrPort) { got <- from.String() + " " + string(b) })
	return a, got
}

func receive(t *testing.T, what string, c <-chan string) string {
	t.Helper()
	select {
	case s := <-c:
		return s
	case <-time.After(5 * time.Second):
		t.Fatalf("%s: nothing came", what)
		return ""
	}
}

func TestTransports(t *testing.T) {
	t.Parallel()
	s := startTURN(t, TURNConfig{Allow: loopbackOpen})
	for _, transport := range []string{"udp", "tcp", "tls"} {
		t.Run(transport, func(t *testing.T) {
			peer, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			to := peer.LocalAddr().(*net.UDPAddr).AddrPort()
			a, got := allocateOn(t, s.access(transport, transport))
			if a.Relayed().Port() < DefaultMinPort || a.Relayed().Addr() != netip.MustParseAddr("127.0.0.1") {
				t.Errorf("relayed address %v", a.Relayed())
			}
			if err := a.Permit(t.Context(), to.Addr()); err != nil {
				t.Fatal(err)
			}
			for i, size := range []int{1, 2, 3, 4, 1200, 1472} {
				want := bytes.Repeat([]byte{byte('a' + i)}, size)
				// From the peer: a Data indication at first, ChannelData once there is a channel.
				if _, err := peer.WriteTo(want, net.UDPAddrFromAddrPort(a.Relayed())); err != nil {
					t.Fatal(err)
				}
				if g := receive(t, "to the client", got); g != to.String()+" "+string(want) {
					t.Errorf("client got %.40q, want %d bytes from %v", g, size, to)
				}
				if err := a.Send(want, size, to); err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 2000)
				_ = peer.SetReadDeadline(time.Now().Add(5 * time.Second))
				n, from, err := peer.ReadFrom(b)
				if err != nil || !bytes.Equal(b[:n], want) || from.String() != a.Relayed().String() {
					t.Fatalf("peer got %d bytes from %v, %v, want %d from %v", n, from, err, size, a.Relayed())
				}
			}
		})
	}
}

// Another implementation as the client: its Send indications, Data indications and channels.
func TestPionClient(t *testing.T) {
	t.Parallel()
	s := startTURN(t, TURNConfig{Allow: loopbackOpen})
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	user := username("pion", time.Hour)
	c, err := pion.NewClient(&pion.ClientConfig{
		STUNServerAddr: s.udp.String(), TURNServerAddr: s.udp.String(), Conn: conn,
		Username: user, Password: Password(secret, user), Realm: realm,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	if mapped, err := c.SendBindingRequest(); err != nil || mapped.String() != conn.LocalAddr().String() {
		t.Fatalf("binding: %v, %v, want %v", mapped, err, conn.LocalAddr())
	}
	relayed, err := c.Allocate()
	if err != nil {
		t.Fatal(err)
	}
	defer relayed.Close()
	peer, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	b := make([]byte, 2000)
	for i := range 50 { // it binds a channel meanwhile
		want := fmt.Appendf(nil, "packet %d", i)
		if _, err := relayed.WriteTo(want, peer.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		_ = peer.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, from, err := peer.ReadFrom(b)
		if err != nil || !bytes.Equal(b[:n], want) || from.String() != relayed.LocalAddr().String() {
			t.Fatalf("peer got %q from %v, %v, want %q from %v", b[:n], from, err, want, relayed.LocalAddr())
		}
		if _, err := peer.WriteTo(want, from); err != nil {
			t.Fatal(err)
		}
		_ = relayed.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, from, err = relayed.ReadFrom(b); err != nil || !bytes.Equal(b[:n], want) || from.String() != peer.LocalAddr().String() {
			t.Fatalf("client got %q from %v, %v, want %q from %v", b[:n], from, err, want, peer.LocalAddr())
		}
	}
}

// Two clients of one relay reach each other, on its own address, which is closed otherwise.
func TestTwoClients(t *testing.T) {
	t.Parallel()
	s := startTURN(t, TURNConfig{})
	for _, c := range [][2]string{{"udp", "udp"}, {"udp", "tcp"}, {"tls", "tcp"}} {
		t.Run(c[0]+" and "+c[1], func(t *testing.T) {
			a, toA := allocateOn(t, s.access(c[0], "a"))
			b, toB := allocateOn(t, s.access(c[1], "b"))
			if err := a.Permit(t.Context(), b.Relayed().Addr()); err != nil {
				t.Fatal(err)
			}
			if err := b.Permit(t.Context(), a.Relayed().Addr()); err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				m := fmt.Sprintf("packet %d", i)
				if err := a.Send([]byte(m), len(m), b.Relayed()); err != nil {
					t.Fatal(err)
				}
				if got, want := receive(t, "b", toB), a.Relayed().String()+" "+m; got != want {
					t.Fatalf("b got %q, want %q", got, want)
				}
				if err := b.Send([]byte(m), len(m), a.Relayed()); err != nil {
					t.Fatal(err)
				}
				if got, want := receive(t, "a", toA), b.Relayed().String()+" "+m; got != want {
					t.Fatalf("a got %q, want %q", got, want)
				}
			}
		})
	}
}

// A raw client says things that no honest one would.
type raw struct {
	t     *testing.T
	conn  net.Conn
	nonce []byte
	user  string
	pass  string
}

func (s *server) raw(t *testing.T, user, pass string) *raw {
	t.Helper()
	return rawAt(t, "udp4", s.udp, user, pass)
}

func rawAt(t *testing.T, network string, at netip.AddrPort, user, pass string) *raw {
	t.Helper()
	c, err := net.Dial(network, at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r := &raw{t: t, conn: c, user: user, pass: pass}
	m := r.ask(methodAllocate, false)
	if code(m) != codeUnauthorized {
		t.Fatalf("a request without credentials: got %d, want 401", code(m))
	}
	r.nonce, _ = m.Get(stun.AttrNonce)
	return r
}

func transportUDP(b *reply) { b.uint32(attrTransport, protocolUDP<<24) }

func (r *raw) ask(method uint16, signed bool, attrs ...func(*reply)) *stun.Message {
	r.t.Helper()
	id := stun.NewTransactionID()
	b := answer(nil, &message{method: method, id: id}, classRequest)
	for _, f := range attrs {
		f(&b)
	}
	var packet []byte
	if signed {
		b.attr(stunmsg.Username, []byte(r.user))
		b.attr(stunmsg.Realm, []byte(realm))
		b.attr(stunmsg.Nonce, r.nonce)
		key := longTermKey(r.user, realm, r.pass)
		packet = b.done(&key)
	} else {
		packet = b.done(nil)
	}
	if _, err := r.conn.Write(packet); err != nil {
		r.t.Fatal(err)
	}
	for {
		in := make([]byte, 2000)
		_ = r.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := r.conn.Read(in)
		if err != nil {
			r.t.Fatalf("method %d: no response: %v", method, err)
		}
		got := &stun.Message{Raw: in[:n]}
		if got.Decode() == nil && got.TransactionID == id {
			return got
		}
	}
}

// code returns the error code of a response, 0 for a success.
func code(m *stun.Message) int {
	var e stun.ErrorCodeAttribute
	if m.Type.Class == stun.ClassSuccessResponse {
		return 0
	}
	if e.GetFrom(m) != nil {
		return -1
	}
	return int(e.Code)
}

func peerAttr(a netip.AddrPort) func(*reply) {
	return func(b *reply) { // not address, which unmaps
		if !a.Addr().Is4In6() {
			b.address(attrPeerAddress, a)
			return
		}
		mask := binary.BigEndian.AppendUint32(nil, stunmsg.Cookie)
		mask = append(mask, b.id[:]...)
		v := binary.BigEndian.AppendUint16([]byte{0, stunmsg.IPv6}, a.Port()^binary.BigEndian.Uint16(mask))
		for i, x := range a.Addr().As16() {
			v = append(v, x^mask[i])
		}
		b.attr(attrPeerAddress, v)
	}
}

func number(n uint16) func(*reply) {
	return func(b *reply) { b.uint32(attrChannelNumber, uint32(n)<<16) }
}

func lifetimeAttr(seconds uint32) func(*reply) {
	return func(b *reply) { b.uint32(attrLifetime, seconds) }
}

func good(s *server, t *testing.T, id string) *raw {
	user := username(id, time.Hour)
	r := s.raw(t, user, Password(secret, user))
	if m := r.ask(methodAllocate, true, transportUDP); code(m) != 0 {
		t.Fatalf("allocate: got %d", code(m))
	}
	return r
}

// The relay is no door to what only its host reaches: nothing of it is permitted, and nothing is sent.
func TestForbidden(t *testing.T) {
	t.Parallel()
	s := startTURN(t, TURNConfig{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.77")}})
	r := good(s, t, "x")
	own, err := net.ListenPacket("udp4", ":0") // a service of the host
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	port := own.LocalAddr().(*net.UDPAddr).Port
	peers := []string{
		fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("0.0.0.0:%d", port), fmt.Sprintf("[::ffff:10.0.0.1]:%d", port),
		"169.254.169.254:80", "192.0.2.77:22", s.udp.String(), fmt.Sprintf("[::1]:%d", port), fmt.Sprintf("[::]:%d", port),
		fmt.Sprintf("[::ffff:127.0.0.1]:%d", port), fmt.Sprintf("[::ffff:0.0.0.0]:%d", port),
		"127.1.2.3:53", "0.1.2.3:53", "10.1.2.3:53", "172.16.0.1:53", "172.31.255.255:53", "192.168.1.1:53", "100.64.0.1:53",
		"100.127.255.255:53", "169.254.1.1:53", "192.0.0.170:53", "192.0.2.1:53", "198.18.0.1:53", "198.51.100.1:53",
		"203.0.113.1:53", "224.0.0.251:5353", "239.255.255.250:1900", "240.0.0.1:53", "255.255.255.255:67",
		"[fe80::1]:53", "[fc00::1]:53", "[fdff::1]:53", "[ff02::fb]:5353", "[64:ff9b::a00:1]:53", "[64:ff9b::7f00:1]:53",
		"[64:ff9b:1::a00:1]:53", "[2002:a00:1::1]:53", "[2001::1]:53", "[2001:db8::1]:53", "[::10.0.0.1]:53", "[100::1]:53",
		"[::ffff:0:127.0.0.1]:53", "[::ffff:169.254.169.254]:80", "[fec0::1]:53",
	}
	for ip := range localAddrs() {
		if ip.Zone() == "" {
			peers = append(peers, netip.AddrPortFrom(ip, uint16(port)).String())
		}
	}
	for i, p := range peers {
		peer := netip.MustParseAddrPort(p)
		if m := r.ask(methodCreatePermission, true, peerAttr(peer)); code(m) != codeForbidden {
			t.Errorf("permission for %v: got %d, want 403", peer, code(m))
		}
		if m := r.ask(methodChannelBind, true, number(uint16(stunmsg.MinChannel+i)), peerAttr(peer)); code(m) != codeForbidden {
			t.Errorf("channel to %v: got %d, want 403", peer, code(m))
		}
		// One good one does not make up for it.
		if m := r.ask(methodCreatePermission, true, peerAttr(netip.MustParseAddrPort("9.9.9.9:53")), peerAttr(peer)); code(m) != codeForbidden {
			t.Errorf("permission for %v with another: got %d, want 403", peer, code(m))
		}
	}
	s.mu.RLock()
	for _, a := range s.allocations {
		a.mu.Lock()
		if len(a.permissions)+len(a.channels) != 0 {
			t.Errorf("permissions %v, channels %v: want none", a.permissions, a.channels)
		}
		a.mu.Unlock()
	}
	s.mu.RUnlock()
	for _, p := range []string{"9.9.9.9:53", "1.0.0.1:53", "172.32.0.1:1", "100.128.0.1:1", "192.0.2.77:50000"} {
		if m := r.ask(methodCreatePermission, true, peerAttr(netip.MustParseAddrPort(p))); code(m) != 0 {
			t.Errorf("permission for %v: got %d, want none", p, code(m))
		}
	}
	if m := r.ask(methodCreatePermission, true, peerAttr(netip.MustParseAddrPort("[2620:fe::fe]:53"))); code(m) != codePeerFamily {
		t.Errorf("permission for IPv6 on an IPv4 address: got %d, want 443", code(m))
	}
}

// A permission for the relay's own address, which clients of it need, does not lead to the host's ports.
func TestOwnPorts(t *testing.T) {
	t.Parallel()
	service, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	port := uint16(service.LocalAddr().(*net.UDPAddr).Port)
	// Its port is within the relay's range, or it would be refused at once.
	s := startTURN(t, TURNConfig{MinPort: 1024})
	r := good(s, t, "x")
	peer := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	if m := r.ask(methodCreatePermission, true, peerAttr(peer)); code(m) != 0 {
		t.Fatalf("permission: got %d", code(m))
	}
	if m := r.ask(methodChannelBind, true, number(stunmsg.MinChannel), peerAttr(peer)); code(m) != 0 {
		t.Fatalf("channel: got %d", code(m))
	}
	b := answer(nil, &message{method: methodSend}, classIndication)
	b.address(attrPeerAddress, peer)
	b.attr(attrData, []byte("secret"))
	for _, packet := range [][]byte{b.done(nil), {0x40, 0, 0, 2, 'h', 'i'}} {
		if _, err := r.conn.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	// What comes after shows that they have been dealt with.
	if m := r.ask(methodRefresh, true); code(m) != 0 {
		t.Fatalf("refresh: got %d", code(m))
	}
	_ = service.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	buf := make([]byte, 100)
	if n, from, err := service.ReadFrom(buf); err == nil {
		t.Errorf("the service got %q from %v", buf[:n], from)
	}
}

func TestAllow(t *testing.T) {
	t.Parallel()
	p := newPeerPolicy([]netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.168.1.9/32"),
		netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"),
	}, []netip.Addr{netip.MustParseAddr("203.0.113.9")})
	p.addrs = func() map[netip.Addr]bool {
		return map[netip.Addr]bool{netip.MustParseAddr("10.0.0.5"): true, netip.MustParseAddr("192.168.1.9"): true, netip.MustParseAddr("fd00::5"): true}
	}
	for addr, want := range map[string]bool{
		"10.0.0.6": true, "::ffff:10.0.0.6": true, "10.0.0.5": false, "203.0.113.9": false, "192.168.1.9": true,
		"127.0.0.7": true, "::1": false, "0.0.0.0": false, "::": false, "224.0.0.1": false, "ff02::1": false,
		"255.255.255.255": false, "fd00::6": true, "fd00::5": false, "169.254.169.254": true, "8.8.8.8": true,
	} {
		if got := p.allows(netip.MustParseAddr(addr), time.Now()); got != want {
			t.Errorf("%s: got %v, want %v", addr, got, want)
		}
	}
	for _, s := range []string{"", "x", "10.0.0.0/33", "fe80::1%eth0", "::ffff:10.0.0.0/104"} {
		if p, err := ParsePrefix(s); err == nil {
			t.Errorf("ParsePrefix(%q) = %v", s, p)
		}
	}
	if p, err := ParsePrefix("10.1.2.3/8"); err != nil || p.String() != "10.0.0.0/8" {
		t.Errorf("got %v, %v", p, err)
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	s := startTURN(t, TURNConfig{PerCredential: 2})
	user := username("x", time.Hour)
	pass := Password(secret, user)
	gone := username("x", -time.Second)
	for _, c := range []struct {
		name, user, pass string
		want             int
	}{
		{"wrong password", user, "wrong", codeUnauthorized},
		{"another's password", username("y", time.Hour), pass, codeUnauthorized},
		{"expired", gone, Password(secret, gone), codeUnauthorized},
		{"no time", "x", Password(secret, "x"), codeUnauthorized},
		{"no time before the colon", ":x", Password(secret, ":x"), codeUnauthorized},
		{"negative", "-1:x", Password(secret, "-1:x"), codeUnauthorized},
		{"too long", user + string(make([]byte, 200)), Password(secret, user+string(make([]byte, 200))), codeUnauthorized},
		{"right", user, pass, 0},
		{"used twice", user, pass, 0},
		{"used once more than it may", user, pass, codeQuota},
	} {
		r := s.raw(t, c.user, c.pass)
		if m := r.ask(methodAllocate, true, transportUDP); code(m) != c.want {
			t.Errorf("%s: got %d, want %d", c.name, code(m), c.want)
		}
		if c.name == "right" {
			// An allocation is its maker's: nobody else's credentials move it.
			mine := r.user
			r.user = username("y", time.Hour)
			r.pass = Password(secret, r.user)
			for method, attrs := range map[uint16][]func(*reply){
				methodRefresh:          {lifetimeAttr(0)},
				methodCreatePermission: {peerAttr(netip.MustParseAddrPort("9.9.9.9:9"))},
				methodChannelBind:      {peerAttr(netip.MustParseAddrPort("9.9.9.9:9")), number(stunmsg.MinChannel)},
			} {
				if m := r.ask(method, true, attrs...); code(m) != codeWrongCredentials {
					t.Errorf("method %d with another's credentials: got %d, want 441", method, code(m))
				}
			}
			r.user, r.pass = mine, pass
		}
	}
	if n := s.Allocations(); n != 2 {
		t.Errorf("%d allocations, want 2", n)
	}
}

func TestNonce(t *testing.T) {
	t.Parallel()
	s := startTURN(t, TURNConfig{})
	user := username("x", time.Hour)
	r := s.raw(t, user, Password(secret, user))
	other := s.raw(t, user, Password(secret, user))
	mine := slices.Clone(r.nonce)
	for _, nonce := range [][]byte{other.nonce, {}, []byte("AAAAAAAAAAAAAAAA"), bytes.Repeat([]byte("x"), 500), mine[:15]} {
		r.nonce = nonce
		m := r.ask(methodAllocate, true, transportUDP)
		if code(m) != codeStaleNonce || !m.Contains(stun.AttrNonce) || !m.Contains(stun.AttrRealm) {
			t.Errorf("nonce %.20q: got %v, want 438 with a new one", nonce, m)
		}
	}
	now := time.Now()
	from := netip.MustParseAddrPort("192.0.2.1:5")
	n := s.nonces.make(from, now)
	for age, want := range map[time.Duration]bool{0: true, 59 * time.Minute: true, time.Hour + time.Second: false, -2 * time.Minute: false} {
		if got := s.nonces.valid(n[:], from, now.Add(age)); got != want {
			t.Errorf("a nonce %v old: got %v, want %v", age, got, want)
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	t.Parallel()
	s := startTURN(t, TURNConfig{MinPort: 50001, MaxPort: 50001})
	user := username("x", time.Hour)
	r := s.raw(t, user, Password(secret, user))
	attr := func(kind uint16, v ...byte) func(*reply) { return func(b *reply) { b.attr(kind, v) } }
	for _, c := range []struct {
		name   string
		method uint16
		attrs  []func(*reply)
		want   int
	}{
		{"refresh of nothing", methodRefresh, nil, codeMismatch},
		{"permission of nothing", methodCreatePermission, []func(*reply){peerAttr(netip.MustParseAddrPort("9.9.9.9:9"))}, codeMismatch},
		{"no transport", methodAllocate, nil, codeBadRequest},
		{"tcp", methodAllocate, []func(*reply){attr(attrTransport, 6, 0, 0, 0)}, codeTransport},
		{"bad transport", methodAllocate, []func(*reply){attr(attrTransport, 17)}, codeBadRequest},
		{"a family that is none", methodAllocate, []func(*reply){transportUDP, attr(attrRequestedFamily, 3, 0, 0, 0)}, codeFamily},
		{"reservation", methodAllocate, []func(*reply){transportUDP, attr(attrReservation, 1, 2, 3, 4, 5, 6, 7, 8)}, codeCapacity},
		{"unknown attribute", methodAllocate, []func(*reply){transportUDP, attr(0x7000, 1)}, codeUnknownAttribute},
		{"don't fragment", methodAllocate, []func(*reply){transportUDP, attr(0x001A)}, codeUnknownAttribute},
		{"even port of one odd port", methodAllocate, []func(*reply){transportUDP, attr(attrEvenPort, 0)}, codeCapacity},
		{"allocate", methodAllocate, []func(*reply){transportUDP}, 0},
		{"again", methodAllocate, []func(*reply){transportUDP}, codeMismatch},
		{"permission for nobody", methodCreatePermission, nil, codeBadRequest},
		{"channel without a peer", methodChannelBind, []func(*reply){number(stunmsg.MinChannel)}, codeBadRequest},
		{"channel number", methodChannelBind, []func(*reply){number(0x3fff), peerAttr(netip.MustParseAddrPort("9.9.9.9:9"))}, codeBadRequest},
		{"channel number", methodChannelBind, []func(*reply){number(0x7fff), peerAttr(netip.MustParseAddrPort("9.9.9.9:9"))}, codeBadRequest},
		{"channel to no port", methodChannelBind, []func(*reply){number(stunmsg.MinChannel), peerAttr(netip.MustParseAddrPort("9.9.9.9:0"))}, codeBadRequest},
		{"channel", methodChannelBind, []func(*reply){number(stunmsg.MinChannel), peerAttr(netip.MustParseAddrPort("9.9.9.9:9"))}, 0},
		{"channel again", methodChannelBind, []func(*reply){number(stunmsg.MinChannel), peerAttr(netip.MustParseAddrPort("9.9.9.9:9"))}, 0},
		{"its number for another", methodChannelBind, []func(*reply){number(stunmsg.MinChannel), peerAttr(netip.MustParseAddrPort("9.9.9.9:8"))}, codeBadRequest},
		{"another number", methodChannelBind, []func(*reply){number(stunmsg.MinChannel + 1), peerAttr(netip.MustParseAddrPort("9.9.9.9:9"))}, codeBadRequest},
		{"refresh of another family", methodRefresh, []func(*reply){attr(attrRequestedFamily, 2, 0, 0, 0)}, codePeerFamily},
		{"give back", methodRefresh, []func(*reply){lifetimeAttr(0)}, 0},
	} {
		if m := r.ask(c.method, true, c.attrs...); code(m) != c.want {
			t.Errorf("%s: got %d, want %d", c.name, code(m), c.want)
		}
	}
	if n := s.Allocations(); n != 0 {
		t.Errorf("%d allocations, want none", n)
	}
	if _, err := NewTURN(TURNConfig{Secret: []byte("short")}); !errors.Is(err, ErrSecret) {
		t.Errorf("a short secret: got %v", err)
	}
}

// Nobody holds more than his share, and what is held is bounded.
func TestQuotas(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[int]TURNConfig{codeQuota: {PerSource: 3}, codeCapacity: {Allocations: 3}} {
		s := startTURN(t, cfg)
		for i := range 3 {
			good(s, t, strconv.Itoa(i))
		}
		user := username("more", time.Hour)
		r := s.raw(t, user, Password(secret, user))
		if m := r.ask(methodAllocate, true, transportUDP); code(m) != want {
			t.Errorf("one too many: got %d, want %d", code(m), want)
		}
	}
	p := good(startTURN(t, TURNConfig{}), t, "peers")
	refused := 0
	for i := range maxPeers + 5 {
		peer := netip.AddrPortFrom(netip.AddrFrom4([4]byte{9, 9, 9, byte(i)}), 9)
		if m := p.ask(methodChannelBind, true, number(stunmsg.MinChannel+uint16(i)), peerAttr(peer)); code(m) == codeCapacity {
			refused++
		}
	}
	if refused != 5 {
		t.Errorf("%d channels refused, want 5", refused)
	}
}
