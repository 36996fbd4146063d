package relay

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/pion/stun"

	"adit/internal/stunmsg"
)

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
	here, err := listLocal()
	if err != nil {
		t.Fatal(err)
	}
	for _, ips := range []map[netip.Addr]bool{here.addrs, here.broadcasts} {
		for ip := range ips {
			peers = append(peers, netip.AddrPortFrom(ip, uint16(port)).String())
		}
	}
	s.mu.Lock()
	for _, p := range append(slices.Clone(peers), "9.9.9.9:53", "1.0.0.1:53", "172.32.0.1:1", "100.128.0.1:1", "192.0.2.77:50000", "[2620:fe::fe]:53") {
		s.pairs["test"].seen[netip.MustParseAddrPort(p).Addr().Unmap()] = time.Now() // as if a side had come from there
	}
	s.mu.Unlock()
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
	refusesToSend(t, r, service, sendTo(peer, "secret"), []byte{0x40, 0, 0, 2, 'h', 'i'})
}

// Nor does one for another address of the host, when the allocation that it was given for has ended.
func TestOwnPortsOfAnotherAddress(t *testing.T) {
	t.Parallel()
	service, err := net.ListenPacket("udp4", "127.0.0.2:0")
	if err != nil {
		t.Skip("this system has one loopback address")
	}
	defer service.Close()
	s := startTURN(t, TURNConfig{})
	second, err := ListenSTUN("127.0.0.2:0", Config{TURN: s.TURN})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	})
	user := username("other", time.Hour)
	other := rawAt(t, "udp4", second.Addr(), user, Password(secret, user))
	if m := other.ask(methodAllocate, true, transportUDP); code(m) != 0 {
		t.Fatalf("allocate on the other address: got %d", code(m))
	}
	r := good(s, t, "x")
	peer := service.LocalAddr().(*net.UDPAddr).AddrPort()
	if m := r.ask(methodCreatePermission, true, peerAttr(netip.AddrPortFrom(peer.Addr(), 0))); code(m) != 0 {
		t.Fatalf("permission: got %d", code(m))
	}
	if m := other.ask(methodRefresh, true, lifetimeAttr(0)); code(m) != 0 {
		t.Fatalf("give back: got %d", code(m))
	}
	refusesToSend(t, r, service, sendTo(peer, "secret"))
}

func sendTo(peer netip.AddrPort, data string) []byte {
	b := answer(nil, &message{method: methodSend}, classIndication)
	b.address(attrPeerAddress, peer)
	b.attr(attrData, []byte(data))
	return b.done(nil)
}

// refusesToSend checks that nothing of what a client sends gets to a service.
func refusesToSend(t *testing.T, r *raw, service net.PacketConn, packets ...[]byte) {
	t.Helper()
	for _, packet := range packets {
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

// Where the host's addresses cannot be listed, the last ones that were count; and before that nothing is allowed.
func TestNoListOfAddresses(t *testing.T) {
	t.Parallel()
	own, other := netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr("8.8.8.8")
	fails := errors.New("no sockets")
	p := newPeerPolicy(nil, nil)
	p.list = func() (local, error) { return local{}, fails }
	now := time.Now()
	if err := p.look(now); !errors.Is(err, fails) {
		t.Errorf("got %v, want the reason", err)
	}
	if p.allows(other, now) || p.allows(own, now) {
		t.Error("something is allowed while nothing is known")
	}
	now = now.Add(2 * ownFor)
	p.list = func() (local, error) { return localOf([]netip.Prefix{netip.PrefixFrom(own, 24)}), nil }
	if !p.allows(other, now) || p.allows(own, now) {
		t.Error("the list is not looked at")
	}
	now = now.Add(2 * ownFor)
	p.list = func() (local, error) { return local{}, fails }
	if !p.allows(other, now) || p.allows(own, now) {
		t.Error("the last list is forgotten")
	}
}

func TestAllow(t *testing.T) {
	t.Parallel()
	p := newPeerPolicy([]netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.168.1.9/32"),
		netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"),
	}, []netip.Addr{netip.MustParseAddr("203.0.113.9")})
	p.list = func() (local, error) {
		return localOf([]netip.Prefix{
			netip.MustParsePrefix("10.0.0.5/23"), netip.MustParsePrefix("192.168.1.9/32"), netip.MustParsePrefix("fd00::5/64"),
			netip.MustParsePrefix("9.9.9.5/30"), netip.MustParsePrefix("8.8.8.1/31"),
		}), nil
	}
	for addr, want := range map[string]bool{
		"10.0.0.6": true, "::ffff:10.0.0.6": true, "10.0.0.5": false, "203.0.113.9": false, "192.168.1.9": true,
		"127.0.0.7": true, "::1": false, "0.0.0.0": false, "::": false, "224.0.0.1": false, "ff02::1": false,
		"10.0.1.255": false, "::ffff:10.0.1.255": false, "10.0.0.0": false, "10.0.0.255": true, "9.9.9.7": false, "9.9.9.4": false,
		"9.9.9.6": true, "8.8.8.0": true, "255.255.255.255": false, "fd00::6": true, "fd00::5": false, "169.254.169.254": true, "8.8.8.8": true,
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
	s.Seen(pairOf(user), netip.MustParseAddr("9.9.9.9"))
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
	s := startTURN(t, TURNConfig{})
	p := good(s, t, "peers")
	s.Seen("test", netip.MustParseAddr("9.9.9.9"))
	refused := 0
	for i := range maxPeers + 5 {
		peer := netip.AddrPortFrom(netip.MustParseAddr("9.9.9.9"), uint16(1+i))
		if m := p.ask(methodChannelBind, true, number(stunmsg.MinChannel+uint16(i)), peerAttr(peer)); code(m) == codeCapacity {
			refused++
		}
	}
	if refused != 5 {
		t.Errorf("%d channels refused, want 5", refused)
	}
}
