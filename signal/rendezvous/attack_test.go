package rendezvous

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/internal/carry"
	"adit/internal/testtier"
	"adit/signal"
)

// This file is the table of docs/security.md, "What a stranger can do to others at a rendezvous", as a driver: each
// attack against a server with TLS, and honest peers who meet meanwhile.
//
//	ADIT_TEST=full go test ./signal/rendezvous -run TestStrangers -v
//
// In the full tier each attack has its full size, and each meeting has to take less than a second.

var full = testtier.IsFull()

// meetings is how many pairs meet by code, and as many by key, during each attack.
var meetings = size(20, 5)

// A site is a server under attack.
type site struct {
	t     *testing.T
	addr  string
	roots *tls.Config
	log   *lockedBuffer

	cfg    Config
	certs  []tls.Certificate
	server *Server
	kill   func()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// proxyAddr is trusted, so that a test can come from IPv6 sites that this machine does not have.
const proxyAddr = "127.0.0.250"

func newSite(t *testing.T, limits Limits, hub *carry.Hub) *site {
	t.Helper()
	s := &site{t: t, addr: "127.0.0.1:0", log: &lockedBuffer{}}
	s.cfg = Config{
		Limits: limits, Carry: hub, Logger: slog.New(slog.NewTextHandler(s.log, nil)),
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix(proxyAddr + "/32")},
	}
	web := httptest.NewUnstartedServer(nil) // for its certificate
	web.StartTLS()
	s.certs, s.roots = web.TLS.Certificates, web.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	web.Close()
	s.roots.ServerName = "example.com"
	s.start()
	t.Cleanup(func() { s.kill() })
	return s
}

// start runs the server, at the same address each time; kill ends it with all its connections.
func (s *site) start() {
	s.t.Helper()
	l, err := net.Listen("tcp4", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	if a := l.Addr().String(); a != s.addr { // at a restart clients read it
		s.addr = a
	}
	server := New(s.cfg)
	https := server.HTTPServer("")
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = https.Serve(tls.NewListener(server.Listener(l), &tls.Config{Certificates: s.certs, NextProtos: []string{"http/1.1"}}))
	}()
	s.server = server
	s.kill = sync.OnceFunc(func() {
		_ = https.Close() // strangers' connections with it
		server.Close()
		<-done
	})
}

// dial connects from one of this machine's loopback addresses.
func (s *site) dial(ctx context.Context, from string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	return d.DialContext(ctx, "tcp4", s.addr)
}

// from returns an HTTP client at an address. With v6 the request comes through the proxy from there.
func (s *site) from(addr string) *http.Client {
	ip := netip.MustParseAddr(addr)
	bind, forwarded := addr, ""
	if ip.Is6() {
		bind, forwarded = proxyAddr, addr
	}
	var base http.RoundTripper = &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx, bind) },
		TLSClientConfig:     s.roots,
		MaxIdleConnsPerHost: 4,
	}
	if forwarded != "" {
		base = forwarding{base, forwarded}
	}
	return &http.Client{Transport: base}
}

type forwarding struct {
	base http.RoundTripper
	from string
}

func (f forwarding) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Forwarded-For", f.from)
	return f.base.RoundTrip(r)
}

func (f forwarding) CloseIdleConnections() { f.base.(*http.Transport).CloseIdleConnections() }

func (s *site) url() string { return "https://" + s.addr }

// do makes one request and returns the status, or 0 if there was no answer.
func (s *site) do(c *http.Client, method, path string, body io.Reader, header ...string) int {
	r, err := http.NewRequest(method, s.url()+path, body)
	if err != nil {
		panic(err)
	}
	r.Header.Set("Content-Type", ContentType)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body) // so that the connection is used again
	return resp.StatusCode
}

// byCode is a meeting in a room: both sides send a message and receive the other's.
func (s *site) byCode(ctx context.Context, n int) error {
	creator := &signal.Client{URL: s.url(), HTTP: s.from(fmt.Sprintf("127.200.%d.1", n))}
	joiner := &signal.Client{URL: s.url(), HTTP: s.from(fmt.Sprintf("127.200.%d.2", n))}
	defer creator.HTTP.CloseIdleConnections()
	defer joiner.HTTP.CloseIdleConnections()
	a, err := creator.Create(ctx)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := a.Send(ctx, signal.Message{Kind: signal.KindPAKE, Body: []byte("share")}); err != nil {
		return err
	}
	b, err := joiner.Join(ctx, a.Nameplate())
	if err != nil {
		return err
	}
	defer b.Close()
	if _, err := b.Receive(ctx); err != nil {
		return err
	}
	if err := b.Send(ctx, signal.Message{Kind: signal.KindOffer, Body: []byte("offer")}); err != nil {
		return err
	}
	_, err = a.Receive(ctx)
	return err
}

// byKey is a meeting at the mailbox of a key.
func (s *site) byKey(ctx context.Context, n int) error {
	h := newHolder(s.t)
	owner := &signal.Client{URL: s.url(), HTTP: s.from(fmt.Sprintf("127.201.%d.1", n))}
	caller := &signal.Client{URL: s.url(), HTTP: s.from(fmt.Sprintf("127.201.%d.2", n))}
	defer owner.HTTP.CloseIdleConnections()
	defer caller.HTTP.CloseIdleConnections()
	box, err := owner.KeyBox(h.private, h.public)
	if err != nil {
		return err
	}
	if err := box.Claim(ctx); err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() {
		for {
			offers, err := box.Poll(ctx, [16]byte{1})
			if err == nil && len(offers) == 0 {
				continue
			}
			if err == nil {
				var room *signal.Room
				if room, err = box.Accept(ctx, offers[0], signal.Message{Kind: signal.KindAnswer, Body: []byte("answer")}); err == nil {
					defer room.Close()
				}
			}
			served <- err
			return
		}
	}()
	door, err := caller.KeyDoor(h.public)
	if err != nil {
		return err
	}
	if _, err := door.Challenge(ctx, 5*time.Second); err != nil {
		return err
	}
	room, err := door.Offer(ctx, signal.Message{Kind: signal.KindOffer, Body: []byte("offer")})
	if err != nil {
		return errors.Join(err, <-served)
	}
	defer room.Close()
	if _, err := room.Receive(ctx); err != nil {
		return err
	}
	return <-served
}

// meet has honest peers meet, from addresses of their own, and checks that all of them do, and how soon.
func (s *site) meet() {
	s.t.Helper()
	limit := 30 * time.Second
	if full {
		limit = time.Second
	}
	var worst time.Duration
	for n := range meetings {
		for name, meeting := range map[string]func(context.Context, int) error{"code": s.byCode, "key": s.byKey} {
			ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
			began := time.Now()
			err := meeting(ctx, n)
			took := time.Since(began)
			cancel()
			if err != nil {
				s.t.Fatalf("meeting %d by %s: %v", n, name, err)
			}
			if worst = max(worst, took); took > limit {
				s.t.Errorf("meeting %d by %s took %v, want at most %v", n, name, took, limit)
			}
		}
	}
	s.t.Logf("%d of %d meetings by code and by key, the slowest in %v", meetings, meetings, worst.Round(time.Millisecond))
}

// logged checks that the log names a limit and the address that it refused.
func (s *site) logged(limit, addr string) {
	s.t.Helper()
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, "limit="+limit+" ") && strings.Contains(line, "most="+addr) {
			return
		}
	}
	s.t.Errorf("the log does not say that %s was refused by %s:\n%s", addr, limit, s.log)
}

// size returns n at full size, and less otherwise.
func size(n, less int) int {
	if full {
		return n
	}
	return less
}

// crowd runs n goroutines of strangers until the test ends, and waits until each has called ready.
func crowd(t *testing.T, n int, run func(ctx context.Context, n int, ready func())) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg, begun sync.WaitGroup
	begun.Add(n)
	for i := range n {
		wg.Go(func() {
			once := sync.OnceFunc(begun.Done)
			defer once()
			run(ctx, i, once)
		})
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	begun.Wait()
}

// rest leaves some of this machine's time to the server and to honest peers: strangers have machines of their own.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func TestStrangers(t *testing.T) {
	t.Run("silent connections of one address", func(t *testing.T) {
		s := newSite(t, Limits{Connections: size(4000, 400), ConnectionsOfOne: 1 << 30, ConnectionsPerMinute: 1 << 30}, nil)
		var conns []net.Conn
		t.Cleanup(func() {
			for _, c := range conns {
				c.Close()
			}
		})
		for range size(9000, 900) {
			c, err := s.dial(t.Context(), "127.66.0.1")
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
		}
		s.meet()
		s.logged(limitConnections, "127.66.0.1")
	})
	t.Run("new connections without end", func(t *testing.T) {
		testtier.Long(t)
		s := newSite(t, Limits{Connections: 200, ConnectionsPerMinute: 600}, nil)
		var made atomic.Int64
		crowd(t, 4, func(ctx context.Context, n int, ready func()) {
			for ctx.Err() == nil {
				c, err := s.dial(ctx, fmt.Sprintf("127.66.1.%d", 1+n))
				if err == nil {
					if made.Add(1) > 3000 {
						ready()
						rest(ctx, time.Millisecond)
					}
					defer c.Close()
				}
			}
		})
		s.meet()
		s.logged(limitConnectionRate, "127.66.1.")
	})
	t.Run("polls of many addresses", func(t *testing.T) {
		addresses := size(128, 8)
		s := newSite(t, Limits{Connections: addresses * 40, Polls: addresses * 16}, nil)
		crowd(t, addresses*32, func(ctx context.Context, n int, ready func()) {
			c := s.from(fmt.Sprintf("127.66.2.%d", 1+n%addresses))
			defer c.CloseIdleConnections()
			for ctx.Err() == nil {
				r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/v1/mailbox/%s/0/0?wait=60", s.url(), boxID(n)), nil)
				if err != nil {
					t.Error(err)
					return
				}
				time.AfterFunc(time.Duration(size(40, 1))*time.Second, ready) // until all of them have shaken hands
				if resp, err := c.Do(r); err == nil {
					resp.Body.Close()
				}
				rest(ctx, time.Duration(size(30, 2))*time.Second)
			}
		})
		s.meet()
		s.logged(limitPolls, "127.66.2.")
	})
	t.Run("slow bodies of many addresses", func(t *testing.T) {
		addresses := size(64, 8)
		s := newSite(t, Limits{Bodies: addresses * 8}, nil)
		crowd(t, addresses*16, func(ctx context.Context, n int, ready func()) {
			for ctx.Err() == nil {
				raw, err := s.dial(ctx, fmt.Sprintf("127.66.3.%d", 1+n%addresses))
				if err != nil {
					return
				}
				c := tls.Client(raw, s.roots)
				_, _ = fmt.Fprintf(c, "POST /v1/room HTTP/1.1\r\nHost: x\r\nContent-Type: application/adit\r\nContent-Length: 16000\r\n\r\nx")
				ready()
				stop := context.AfterFunc(ctx, func() { raw.Close() })
				_, _ = c.Read(make([]byte, 1)) // until it is refused
				stop()
				raw.Close()
				rest(ctx, 2*time.Second)
			}
		})
		s.meet()
		s.logged(limitBodies, "127.66.3.")
	})
	t.Run("rooms of an IPv6 site", func(t *testing.T) {
		testtier.Long(t)
		s := newSite(t, Limits{Bytes: size(32<<20, 4<<20)}, nil)
		large := bytes.Repeat([]byte("x"), MaxMessage)
		kept, err := (&signal.Client{URL: s.url(), HTTP: s.from("127.200.250.1")}).Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer kept.Close()
		crowd(t, 16, func(ctx context.Context, n int, ready func()) {
			for i := 0; ctx.Err() == nil && i < size(150, 40); i++ {
				c := s.from(fmt.Sprintf("2001:db8:0:%x00::1", (n*16+i)%256))
				s.do(c, http.MethodPost, "/v1/room", bytes.NewReader(large))
				c.CloseIdleConnections()
			}
		})
		s.meet()
		s.logged(limitStore, "2001:db8:")
		other, err := (&signal.Client{URL: s.url(), HTTP: s.from("127.200.250.2")}).Join(t.Context(), kept.Nameplate())
		if err != nil {
			t.Fatalf("a code that was open all the time: %v", err)
		}
		other.Close()
	})
	t.Run("guesses of an IPv6 site", func(t *testing.T) {
		s := newSite(t, Limits{}, nil)
		var open []*signal.Room
		for n := range size(100, 30) {
			r, err := (&signal.Client{URL: s.url(), HTTP: s.from(fmt.Sprintf("127.202.0.%d", 1+n))}).Create(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			open = append(open, r)
		}
		for n := range size(256, 24) {
			c := s.from(fmt.Sprintf("2001:db8:0:%x00::1", n))
			for i := range 11 {
				s.do(c, http.MethodPost, fmt.Sprintf("/v1/room/%d/join", 1000+(n*11+i)*3), nil)
			}
			c.CloseIdleConnections()
		}
		s.meet()
		s.logged(limitFailedJoins, "2001:db8:0:")
		burnt := 0
		for n, r := range open {
			other, err := (&signal.Client{URL: s.url(), HTTP: s.from(fmt.Sprintf("127.203.0.%d", 1+n))}).Join(t.Context(), r.Nameplate())
			if err != nil {
				burnt++
				continue
			}
			other.Close()
		}
		t.Logf("%d of %d open codes are burnt", burnt, len(open))
		if burnt > 5 { // some 60 guesses at 9,000 numbers, of which a hundred are open
			t.Errorf("%d of %d open codes are burnt, want at most 5", burnt, len(open))
		}
	})
	t.Run("mailboxes of keys of few addresses", func(t *testing.T) {
		testtier.Long(t)
		s := newSite(t, Limits{Keyboxes: size(4000, 200)}, nil)
		crowd(t, 8, func(ctx context.Context, n int, ready func()) {
			c := s.from(fmt.Sprintf("127.66.4.%d", 1+n))
			defer c.CloseIdleConnections()
			for i := 0; ctx.Err() == nil; i++ {
				h := newHolder(t)
				box, err := (&signal.Client{URL: s.url(), HTTP: c}).KeyBox(h.private, h.public)
				if err != nil {
					t.Error(err)
					return
				}
				_ = box.Claim(ctx) // refused, when all are in use
				if i >= size(600, 60) {
					ready()
					rest(ctx, 50*time.Millisecond)
				}
			}
		})
		s.meet()
		s.logged(limitKeyboxes, "127.66.4.")
	})
	t.Run("connections that carry packets", func(t *testing.T) {
		testtier.Long(t)
		hub := carry.NewHub(carry.Limits{Total: 16})
		t.Cleanup(hub.Close)
		s := newSite(t, Limits{}, hub)
		crowd(t, 4, func(ctx context.Context, n int, ready func()) {
			c := &signal.Client{URL: s.url(), HTTP: s.from(fmt.Sprintf("127.66.5.%d", 1+n))}
			defer c.HTTP.CloseIdleConnections()
			if _, err := c.Carry(ctx, [16]byte{byte(n)}, 0); !errors.Is(err, carry.ErrRefused) {
				t.Errorf("with an invented id: got %v, want %v", err, carry.ErrRefused)
			}
			for range 16 { // a room of one's own for each two
				a, b, err := s.carried(ctx, c, c)
				if err != nil {
					continue
				}
				defer a.Close()
				defer b.Close()
			}
			ready()
			<-ctx.Done()
		})
		s.meet()
		for n := range meetings {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			left := &signal.Client{URL: s.url(), HTTP: s.from(fmt.Sprintf("127.204.%d.1", n))}
			right := &signal.Client{URL: s.url(), HTTP: s.from(fmt.Sprintf("127.204.%d.2", n))}
			a, b, err := s.carried(ctx, left, right)
			if err != nil {
				t.Fatalf("pair %d: %v", n, err)
			}
			got := make(chan string, 1)
			b.SetHandler(func(p []byte, _ int, _ netip.AddrPort) {
				select {
				case got <- string(p):
				default: // one is enough
				}
			})
			again := time.NewTicker(50 * time.Millisecond) // what comes before the other side is there is lost
			for came := false; !came; {
				if err := a.Send([]byte("packet"), 6, netip.AddrPort{}); err != nil {
					t.Fatalf("pair %d: %v", n, err)
				}
				select {
				case p := <-got:
					if came = true; p != "packet" {
						t.Errorf("pair %d: got %q, want the packet", n, p)
					}
				case <-again.C:
				case <-ctx.Done():
					t.Fatalf("pair %d: nothing came", n)
				}
			}
			again.Stop()
			a.Close()
			b.Close()
			cancel()
		}
		s.logged(limitCarry, "127.66.5.")
	})
}

// carried has two clients meet in a room and take both sides of a pair whose packets the server carries.
func (s *site) carried(ctx context.Context, left, right *signal.Client) (a, b *carry.Conn, err error) {
	one, err := left.Create(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer one.Close()
	two, err := right.Join(ctx, one.Nameplate())
	if err != nil {
		return nil, nil, err
	}
	defer two.Close()
	if _, err := one.TURN(ctx); err != nil {
		return nil, nil, err
	}
	creator := &signal.Client{URL: left.URL, HTTP: left.HTTP}
	joiner := &signal.Client{URL: right.URL, HTTP: right.HTTP}
	creator.Adopt(one)
	joiner.Adopt(two)
	if a, err = creator.Carry(ctx, [16]byte{1}, 0); err != nil {
		return nil, nil, err
	}
	if b, err = joiner.Carry(ctx, [16]byte{1}, 1); err != nil {
		a.Close()
		return nil, nil, err
	}
	return a, b, nil
}
