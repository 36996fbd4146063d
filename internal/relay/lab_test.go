package relay

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun"

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

// username returns one that is good for some time, of a side of the room that all tests share; or of another, if the
// id names one in front of a dot.
func username(id string, life time.Duration) string {
	if !strings.Contains(id, ".") {
		id = "test." + id
	}
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

// hands is a clock that tests set.
type hands struct{ ahead atomic.Int64 }

func (h *hands) now() time.Time { return time.Now().Add(time.Duration(h.ahead.Load())) }

func lifetimeIn(m *stun.Message) time.Duration {
	v, err := m.Get(stun.AttrLifetime)
	if err != nil || len(v) != 4 {
		return -1
	}
	return time.Duration(binary.BigEndian.Uint32(v)) * time.Second
}

func (s *server) at(a netip.AddrPort) *allocation {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.relayed[a]
}
