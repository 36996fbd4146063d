package cmd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"adit/internal/event"
	"adit/internal/turn"
	"adit/signal"
)

// certificateFiles writes a certificate for example.com and 127.0.0.1, and returns what trusts it.
func certificateFiles(t *testing.T) (cert, key string, roots *x509.CertPool) {
	t.Helper()
	web := httptest.NewUnstartedServer(nil)
	web.StartTLS()
	pair := web.TLS.Certificates[0]
	roots = x509.NewCertPool()
	roots.AddCert(web.Certificate())
	web.Close()
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key, roots
}

// Two peers meet at the rendezvous, get their credentials, and reach each other by the relay in each way
// that it offers, HTTPS's own port included.
func TestServeTURN(t *testing.T) {
	cert, key, roots := certificateFiles(t)
	u := newScreen()
	listening := make(chan event.Event, 16) // more than there are
	u.observer = func(e event.Event) {
		if e.Name == event.Listening {
			listening <- e
		}
	}
	stop := errors.New("the test is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serve(ctx, u, serveConfig{
			http: "127.0.0.1:0", stun: "127.0.0.1:0", cert: cert, key: key,
			turn: turnConfig{on: true, tls: "127.0.0.1:0", ports: "49152-65535", rate: "300M", allocations: 10, allocationsOfOne: 10,
				urls: []string{"turn:relay.example:3478"}, file: secretFile(t, "a secret of the tests\n")},
		})
	}()
	at := make(map[string]string)
	for _, want := range []string{"stun", "turn", "turn-tcp", "turn-tls", "https"} {
		select {
		case e := <-listening:
			at[e.Target] = e.Addr
		case err := <-ended:
			t.Fatal(err)
		}
		if at[want] == "" {
			t.Fatalf("listens at %v, want %s next", at, want)
		}
	}
	atA, atB := relaysOf(t, "https://"+at["https"], roots)
	want := []string{
		"turn:relay.example:3478", "turn:" + at["turn"] + "?transport=udp", "turn:" + at["turn-tcp"] + "?transport=tcp",
		"turns:" + at["turn-tls"] + "?transport=tcp", "turns:" + at["https"] + "?transport=tcp",
	}
	if got := urlsOf(atA); !slices.Equal(got, want) || !slices.Equal(urlsOf(atB), want) {
		t.Fatalf("relays %q, want %q", got, want)
	}
	for i := 1; i < len(want); i++ {
		relayed(t, atA[i], atB[i], roots)
	}
	cancel(stop)
	if err := <-ended; !errors.Is(err, stop) {
		t.Errorf("serve: %v", err)
	}
}

// relaysOf returns what both sides of a room hear of relays.
func relaysOf(t *testing.T, url string, roots *x509.CertPool) (a, b []signal.TURNServer) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	c := &signal.Client{URL: url, HTTP: &http.Client{Transport: transport}}
	creator, err := c.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer creator.Close()
	joiner, err := c.Join(t.Context(), creator.Nameplate())
	if err != nil {
		t.Fatal(err)
	}
	defer joiner.Close()
	if a, err = creator.TURN(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b, err = joiner.TURN(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// relayed sends from one side to the other, by a relay that both have a credential for.
func relayed(t *testing.T, a, b signal.TURNServer, roots *x509.CertPool) {
	t.Run(a.URL, func(t *testing.T) {
		allocate := func(s signal.TURNServer) (*turn.Allocation, chan string) {
			x, err := turn.Allocate(t.Context(), turn.Config{Server: turn.Server(s), TLS: &tls.Config{RootCAs: roots, NextProtos: []string{"stun.turn"}}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { x.Close() })
			got := make(chan string, 1)
			x.SetHandler(func(b []byte, _ int, from netip.AddrPort) { got <- from.String() + " " + string(b) })
			return x, got
		}
		x, _ := allocate(a)
		y, got := allocate(b)
		if err := y.Permit(t.Context(), x.Relayed().Addr()); err != nil {
			t.Fatal(err)
		}
		if err := x.Send([]byte("hello"), 5, y.Relayed()); err != nil {
			t.Fatal(err)
		}
		select {
		case m := <-got:
			if want := x.Relayed().String() + " hello"; m != want {
				t.Errorf("got %q, want %q", m, want)
			}
		case <-time.After(10 * time.Second):
			t.Error("nothing came")
		}
	})
}

// Debian's coturn takes the credentials that the rendezvous hands out for it.
func TestServeCoturn(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("turnserver")
	if err != nil {
		t.Skip("no turnserver here (Debian: coturn)")
	}
	cert, key, roots := certificateFiles(t)
	port, secure := freePort(t), freePort(t)
	dir := t.TempDir()
	coturn := exec.Command(program, "-n", "--use-auth-secret", "--static-auth-secret=a secret of the tests", "--realm=x",
		"--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--allow-loopback-peers", "--no-cli", "--no-dtls",
		"--listening-port="+port, "--tls-listening-port="+secure, "--cert="+cert, "--pkey="+key,
		"--log-file=stdout", "--pidfile="+filepath.Join(dir, "pid"), "--userdb="+filepath.Join(dir, "db"))
	coturn.Dir = dir
	if err := coturn.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = coturn.Process.Kill()
		_ = coturn.Wait() // it was killed
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(20 * time.Second); ; <-tick.C {
		if c, err := net.Dial("tcp", "127.0.0.1:"+secure); err == nil {
			c.Close()
			break
		} else if time.Now().After(limit) {
			t.Fatal(err)
		}
	}
	u := newScreen()
	at := make(chan string, 1)
	u.observer = func(e event.Event) {
		if e.Name == event.Listening {
			at <- e.Addr
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	urls := []string{"turn:127.0.0.1:" + port, "turn:127.0.0.1:" + port + "?transport=tcp", "turns:127.0.0.1:" + secure + "?transport=tcp"}
	go func() {
		ended <- serve(ctx, u, serveConfig{http: "127.0.0.1:0", stun: "none", turn: turnConfig{ports: "1-2", allocations: 1, allocationsOfOne: 1, urls: urls, file: secretFile(t, "a secret of the tests\n")}})
	}()
	a, b := relaysOf(t, "http://"+<-at, nil)
	if !slices.Equal(urlsOf(a), urls) {
		t.Errorf("relays %q, want %q", urlsOf(a), urls)
	}
	for i := range a {
		relayed(t, a[i], b[i], roots)
	}
	bad := a[0]
	bad.Password = "wrong"
	if x, err := turn.Allocate(t.Context(), turn.Config{Server: turn.Server(bad)}); !errors.Is(err, turn.ErrUnauthorized) {
		t.Errorf("a wrong password: got %v, %v", x, err)
	}
	cancel()
	<-ended
}

// freePort returns a TCP port that nobody has at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String()) // a listener's address is one
	return port
}

func urlsOf(all []signal.TURNServer) (out []string) {
	for _, s := range all {
		out = append(out, s.URL)
	}
	return out
}

func secretFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestServeTURNUsage(t *testing.T) {
	t.Parallel()
	good := turnConfig{on: true, ports: "1-2", rate: "1k", allocations: 1, allocationsOfOne: 1}
	for name, edit := range map[string]func(*serveConfig){
		"stun none":      func(c *serveConfig) { c.stun = "none" },
		"tls without":    func(c *serveConfig) { c.turn.tls = ":0" },
		"ports":          func(c *serveConfig) { c.turn.ports = "9-3" },
		"no ports":       func(c *serveConfig) { c.turn.ports = "9" },
		"rate":           func(c *serveConfig) { c.turn.rate = "fast" },
		"no rate":        func(c *serveConfig) { c.turn.rate = "0" },
		"total rate":     func(c *serveConfig) { c.turn.totalRate = "M" },
		"address rate":   func(c *serveConfig) { c.turn.addressRate = "x" },
		"volume":         func(c *serveConfig) { c.turn.volumes[0] = "x" },
		"of one address": func(c *serveConfig) { c.turn.allocationsOfOne = 0 },
		"allocations":    func(c *serveConfig) { c.turn.allocations = 0 },
		"range":          func(c *serveConfig) { c.turn.allow = []string{"x"} },
		"url":            func(c *serveConfig) { c.turn.urls = []string{"http://x"} },
		"url, no secret": func(c *serveConfig) { c.turn.urls = []string{"turn:x"} },
		"no file":        func(c *serveConfig) { c.turn.file = "does/not/exist" },
		"short secret":   func(c *serveConfig) { c.turn.file = secretFile(t, "short\n") },
		"two lines":      func(c *serveConfig) { c.turn.file = secretFile(t, strings.Repeat("long\n", 9)) },
		"nothing on":     func(c *serveConfig) { c.turn.on, c.turn.tcp = false, ":0" },
	} {
		cfg := serveConfig{http: "127.0.0.1:0", stun: "127.0.0.1:0", turn: good}
		edit(&cfg)
		if r, err := startRelay(cfg, nil, nil, newScreen()); err == nil {
			r.close()
			t.Errorf("%s: no error", name)
		}
	}
	for _, s := range []string{"x", "1.2.3.4,5.6.7.8", "1.2.3.4,", "::1,1.2.3.4,::2"} {
		if ips, err := externalIPs(s); err == nil {
			t.Errorf("external IP %q: got %v", s, ips)
		}
	}
	if ips, err := externalIPs("1.2.3.4, 2001:db8::1"); err != nil || len(ips) != 2 {
		t.Errorf("got %v, %v", ips, err)
	}
	for s, want := range map[string]int{"8": 1, "1k": 125, "50M": 6_250_000, "1G": 125_000_000, "none": 0, "": 0} {
		if got, err := bitRate("--x", s); err != nil || got != want {
			t.Errorf("bitRate(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
}
