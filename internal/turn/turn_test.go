package turn

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"

	"adit/internal/leaktest"

	"github.com/pion/logging"
	turnserver "github.com/pion/turn/v2"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const limit = 10 * time.Second

// serve starts a server for UDP, TCP and TLS on loopback and returns its URLs.
func serve(t testing.TB, allow func(ip net.IP) bool) (udp, tcp, secure string, pool *x509.CertPool) {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert, pool := certificate(t)
	sl, err := tls.Listen("tcp4", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	gen := &turnserver.RelayAddressGeneratorStatic{RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1"}
	permit := func(_ net.Addr, ip net.IP) bool { return allow == nil || allow(ip) }
	lf := logging.NewDefaultLoggerFactory()
	lf.DefaultLogLevel = logging.LogLevelDisabled
	s, err := turnserver.NewServer(turnserver.ServerConfig{
		Realm: "adit", LoggerFactory: lf,
		AuthHandler: func(user, realm string, _ net.Addr) ([]byte, bool) {
			return turnserver.GenerateAuthKey(user, realm, "secret"), user == "user"
		},
		PacketConnConfigs: []turnserver.PacketConnConfig{{PacketConn: pc, RelayAddressGenerator: gen, PermissionHandler: permit}},
		ListenerConfigs: []turnserver.ListenerConfig{
			{Listener: ln, RelayAddressGenerator: gen, PermissionHandler: permit},
			{Listener: sl, RelayAddressGenerator: gen, PermissionHandler: permit},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return "turn:" + pc.LocalAddr().String(), "turn:" + ln.Addr().String() + "?transport=tcp", "turns:" + sl.Addr().String(), pool
}

func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func allocate(t testing.TB, cfg Config) *Allocation {
	t.Helper()
	if cfg.Server.Username == "" {
		cfg.Server.Username, cfg.Server.Password = "user", "secret"
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	a, err := Allocate(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// A datagram is what a handler was given.
type datagram struct {
	b    []byte
	from netip.AddrPort
}

func receiver(a *Allocation) <-chan datagram {
	ch := make(chan datagram, 1024)
	a.SetHandler(func(b []byte, _ int, from netip.AddrPort) {
		select {
		case ch <- datagram{bytes.Clone(b), from}:
		default:
		}
	})
	return ch
}

func expect(t testing.TB, ch <-chan datagram, want string, from netip.AddrPort) {
	t.Helper()
	select {
	case d := <-ch:
		if string(d.b) != want || d.from != from {
			t.Fatalf("got %q from %v, want %q from %v", d.b, d.from, want, from)
		}
	case <-time.After(limit):
		t.Fatalf("%q did not arrive", want)
	}
}

// Two allocations over each transport reach each other, and a plain socket.
func TestTransports(t *testing.T) {
	udp, tcp, secure, pool := serve(t, nil)
	for name, url := range map[string]string{"udp": udp, "tcp": tcp, "tls": secure} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Server: Server{URL: url}, TLS: &tls.Config{RootCAs: pool}}
			a, b := allocate(t, cfg), allocate(t, cfg)
			if a.Transport() != name || !a.Mapped().Addr().IsLoopback() {
				t.Errorf("transport %s, mapped %v", a.Transport(), a.Mapped())
			}
			fromA, fromB := receiver(b), receiver(a)
			if err := b.Permit(t.Context(), a.Relayed().Addr()); err != nil {
				t.Fatal(err)
			}
			for _, s := range []string{"the first", "the second", "the third!!!"} { // pion's server wants nine bytes of a frame
				if err := a.Send([]byte(s), len(s), b.Relayed()); err != nil {
					t.Fatal(err)
				}
				expect(t, fromA, s, a.Relayed())
			}
			// Several in one call, the last shorter.
			if err := b.Send([]byte("aaaaaaaabbbbbbbbcccccc"), 8, a.Relayed()); err != nil {
				t.Fatal(err)
			}
			for _, s := range []string{"aaaaaaaa", "bbbbbbbb", "cccccc"} {
				expect(t, fromB, s, b.Relayed())
			}

			pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			plain := pc.LocalAddr().(*net.UDPAddr).AddrPort()
			if err := a.Send([]byte("outwards"), 8, plain); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 100)
			_ = pc.SetDeadline(time.Now().Add(limit))
			n, from, err := pc.ReadFrom(buf)
			if err != nil || string(buf[:n]) != "outwards" || from.(*net.UDPAddr).AddrPort() != a.Relayed() {
				t.Fatalf("read %q from %v, %v", buf[:n], from, err)
			}
			if _, err := pc.WriteTo([]byte("inwards"), from); err != nil {
				t.Fatal(err)
			}
			expect(t, fromB, "inwards", plain)
		})
	}
}

func TestRefusals(t *testing.T) {
	udp, _, secure, _ := serve(t, func(ip net.IP) bool { return !ip.Equal(net.IPv4(127, 0, 0, 9)) })
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if _, err := Allocate(ctx, Config{Server: Server{udp, "user", "wrong"}}); err == nil {
		t.Error("a wrong password was accepted")
	}
	if _, err := Allocate(ctx, Config{Server: Server{udp, "nobody", "secret"}}); err == nil {
		t.Error("a wrong user was accepted")
	}
	var unknown x509.UnknownAuthorityError
	if _, err := Allocate(ctx, Config{Server: Server{secure, "user", "secret"}}); !errors.As(err, &unknown) {
		t.Errorf("a certificate of nobody: %v", err)
	}
	a := allocate(t, Config{Server: Server{URL: udp}})
	if err := a.Permit(ctx, netip.MustParseAddr("127.0.0.9")); !errors.Is(err, ErrForbidden) {
		t.Errorf("Permit of a refused address: %v, want ErrForbidden", err)
	}
	a.Close()
	if err := a.Send([]byte("x"), 1, netip.MustParseAddrPort("127.0.0.1:9")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send after Close: %v", err)
	}
	if err := a.Permit(ctx, netip.MustParseAddr("127.0.0.1")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Permit after Close: %v", err)
	}
}

// A server that is not there is given up.
func TestNoServer(t *testing.T) {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0") // takes and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Allocate(ctx, Config{Server: Server{"turn:" + pc.LocalAddr().String(), "user", "secret"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the deadline", err)
	}
}

// What ends pion's own client, and other rubbish from the server's address, changes nothing.
func TestStrayMessages(t *testing.T) {
	a := &Allocation{
		c:     &client{waiting: nil},
		peers: map[netip.AddrPort]*peer{}, channels: map[uint16]*peer{},
	}
	got := 0
	a.SetHandler(func([]byte, int, netip.AddrPort) { got++ })
	for _, b := range [][]byte{
		nil, {0x40}, {0x40, 0, 0, 4, 1, 2, 3, 4}, {0x4f, 0xff, 0xff, 0xff},
		append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...),    // Binding request
		append([]byte{0x01, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...), // response to nothing
		append([]byte{0, 0x17, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...), // Data without data
		append([]byte{0, 0x17, 0xff, 0xfc, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...),
	} {
		a.receive(b)
	}
	if got != 0 {
		t.Errorf("%d of them were delivered", got)
	}
}

// The server's end, or that of its connection, ends the allocation with a reason.
func TestServerEnds(t *testing.T) {
	_, tcp, _, _ := serve(t, nil)
	var conn net.Conn
	a := allocate(t, Config{Server: Server{URL: tcp}, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		conn = c
		return c, err
	}})
	conn.Close()
	select {
	case <-a.Done():
		if a.Err() == nil {
			t.Error("no reason")
		}
	case <-time.After(limit):
		t.Fatal("the allocation outlived its connection")
	}
}

func TestTooManyPeers(t *testing.T) {
	udp, _, _, _ := serve(t, nil)
	a := allocate(t, Config{Server: Server{URL: udp}})
	var err error
	for i := range maxPeers + 1 {
		err = a.Send([]byte("x"), 1, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(20000+i)))
	}
	if !errors.Is(err, ErrPeers) {
		t.Errorf("%v, want ErrPeers", err)
	}
}
