package cmd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
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
			turn: turnConfig{on: true, tls: "127.0.0.1:0", ports: "49152-65535", rate: "300M", allocations: 10,
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
	client := func() *signal.Client {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
		t.Cleanup(transport.CloseIdleConnections)
		return &signal.Client{URL: "https://" + at["https"], HTTP: &http.Client{Transport: transport}}
	}
	a, err := client().Create(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := client().Join(ctx, a.Nameplate())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	atA, err := a.TURN(ctx)
	if err != nil {
		t.Fatal(err)
	}
	atB, err := b.TURN(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"turn:relay.example:3478", "turn:" + at["turn"] + "?transport=udp", "turn:" + at["turn-tcp"] + "?transport=tcp",
		"turns:" + at["turn-tls"] + "?transport=tcp", "turns:" + at["https"] + "?transport=tcp",
	}
	if got := urlsOf(atA); !slices.Equal(got, want) || !slices.Equal(urlsOf(atB), want) {
		t.Fatalf("relays %q, want %q", got, want)
	}
	for i := 1; i < len(want); i++ {
		t.Run(want[i], func(t *testing.T) {
			relayed := func(s signal.TURNServer) (*turn.Allocation, chan string) {
				x, err := turn.Allocate(t.Context(), turn.Config{Server: turn.Server(s), TLS: &tls.Config{RootCAs: roots, NextProtos: []string{"stun.turn"}}})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { x.Close() })
				got := make(chan string, 1)
				x.SetHandler(func(b []byte, _ int, from netip.AddrPort) { got <- from.String() + " " + string(b) })
				return x, got
			}
			x, _ := relayed(atA[i])
			y, got := relayed(atB[i])
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
	a.Close()
	b.Close()
	cancel(stop)
	if err := <-ended; !errors.Is(err, stop) {
		t.Errorf("serve: %v", err)
	}
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
	good := turnConfig{on: true, ports: "1-2", rate: "1k", allocations: 1}
	for name, edit := range map[string]func(*serveConfig){
		"stun none":      func(c *serveConfig) { c.stun = "none" },
		"tls without":    func(c *serveConfig) { c.turn.tls = ":0" },
		"ports":          func(c *serveConfig) { c.turn.ports = "9-3" },
		"no ports":       func(c *serveConfig) { c.turn.ports = "9" },
		"rate":           func(c *serveConfig) { c.turn.rate = "fast" },
		"no rate":        func(c *serveConfig) { c.turn.rate = "0" },
		"total rate":     func(c *serveConfig) { c.turn.totalRate = "M" },
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
