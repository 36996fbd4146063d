package relay

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"testing"
	"time"

	pion "github.com/pion/turn/v2"

	"adit/internal/turn"
)

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

// One port serves HTTPS and TURN over TLS; who says nothing keeps nobody waiting.
func TestShare(t *testing.T) {
	t.Parallel()
	s := startTURN(t, TURNConfig{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	shared := Share(l, &tls.Config{Certificates: s.certificates, NextProtos: []string{"http/1.1"}}, s.TURN)
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "got %s", b)
	})}
	done := make(chan error, 1)
	go func() { done <- web.Serve(shared) }()
	silent, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	half, err := tls.Dial("tcp", l.Addr().String(), s.roots)
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	transport := &http.Transport{TLSClientConfig: s.roots}
	defer transport.CloseIdleConnections()
	for range 3 {
		r, err := (&http.Client{Transport: transport}).Post("https://"+l.Addr().String(), "text/plain", bytes.NewReader([]byte("hello")))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r.Body); err != nil || string(b) != "got hello" {
			t.Errorf("got %q, %v", b, err)
		}
		r.Body.Close()
	}
	for _, protocols := range [][]string{nil, {"stun.turn"}} {
		cfg := s.access("tls", "x")
		cfg.Server.URL = fmt.Sprintf("turns:%v?transport=tcp", l.Addr())
		cfg.TLS = s.roots.Clone()
		cfg.TLS.NextProtos = protocols
		a, err := turn.Allocate(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
	}
	if err := web.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != http.ErrServerClosed {
		t.Error(err)
	}
	if err := shared.Close(); err != nil {
		t.Error(err)
	}
}

func TestIPv6(t *testing.T) {
	t.Parallel()
	l, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	defer l.Close()
	s := startTURN(t, TURNConfig{Addrs: []netip.Addr{netip.MustParseAddr("::1")}, Allow: loopbackOpen})
	cfg := s.access("udp", "x")
	cfg.IPv6 = true
	a, got := allocateOn(t, cfg)
	if a.Relayed().Addr() != netip.MustParseAddr("::1") {
		t.Fatalf("relayed address %v", a.Relayed())
	}
	to := l.LocalAddr().(*net.UDPAddr).AddrPort()
	s.Seen("test", to.Addr())
	if err := a.Permit(t.Context(), to.Addr()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.WriteTo([]byte("in"), net.UDPAddrFromAddrPort(a.Relayed())); err != nil {
		t.Fatal(err)
	}
	if m, want := receive(t, "a packet over IPv6", got), to.String()+" in"; m != want {
		t.Errorf("got %q, want %q", m, want)
	}
	if err := a.Send([]byte("out"), 3, to); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	_ = l.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, from, err := l.ReadFrom(b); err != nil || string(b[:n]) != "out" || from.String() != a.Relayed().String() {
		t.Errorf("got %q from %v, %v", b[:n], from, err)
	}
	if err := a.Permit(t.Context(), netip.MustParseAddr("9.9.9.9")); err == nil {
		t.Error("an IPv6 address relays to IPv4")
	}
}

// On a machine with several addresses, all that a client gets comes from the one that it asked.
func TestSecondAddress(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has all of 127.0.0.0/8 by itself")
	}
	s := startTURN(t, TURNConfig{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	udp, err := ListenSTUN(":0", Config{TURN: s.TURN})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	peer, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	cfg := s.access("udp", "x")
	cfg.Server.URL = fmt.Sprintf("turn:127.0.0.2:%d", udp.Addr().Port())
	a, got := allocateOn(t, cfg) // its socket is connected
	if a.Relayed().Addr() != netip.MustParseAddr("127.0.0.2") {
		t.Errorf("relayed address %v", a.Relayed())
	}
	if err := a.Permit(t.Context(), netip.MustParseAddr("127.0.0.1")); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.WriteToUDPAddrPort([]byte("in"), a.Relayed()); err != nil {
		t.Fatal(err)
	}
	receive(t, "what a peer sent", got)
}
