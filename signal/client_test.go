package signal_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"adit/signal"
	"adit/signal/rendezvous"
)

func TestClientURL(t *testing.T) {
	t.Parallel()
	url := serve(t, rendezvous.Config{STUN: []string{":3478", "stun.example:19302"}}, func(h http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/v1/", h)
		mux.Handle("/some/where/", http.StripPrefix("/some/where", h))
		return mux
	})
	for _, c := range []struct{ name, url, fault string }{
		{"plain", url, ""},
		{"slash", url + "/", ""},
		{"spaces", " " + url + "\n", ""},
		{"prefix", url + "/some/where", ""},
		{"prefix and slash", url + "/some/where/", ""},
		{"wrong prefix", url + "/no/where", "404"},
		{"no scheme", "rendezvous.example", "http://"},
		{"host and port", "rendezvous.example:8080", "http://"},
		{"other scheme", "ftp://rendezvous.example", "http://"},
		{"no host", "http://", "names no host"},
		{"port alone", "http://:80", "names no host"},
		{"query", url + "/?x=1", "more than a host and a path"},
		{"token", strings.Replace(url, "http://", "http://secret@", 1), ""},
		{"password", strings.Replace(url, "http://", "http://user:secret@", 1), ""},
		{"token and query", strings.Replace(url, "http://", "http://secret@", 1) + "/?x=1", "more than a host and a path"},
		{"token at no host", "http://secret@:80", "names no host"},
		{"empty", "", "http://"},
		{"broken", "http://[::1", "read the rendezvous URL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := &signal.Client{URL: c.url}
			defer client.CloseIdle()
			ice, err := client.ICE(within(t, 10*time.Second))
			switch {
			case c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)):
				t.Errorf("got %v, want an error with %q", err, c.fault)
			case c.fault != "" && strings.Contains(err.Error(), "secret"):
				t.Errorf("error tells the password: %v", err)
			case c.fault == "" && err != nil:
				t.Error(err)
			case c.fault == "" && fmt.Sprint(ice.STUN) != "[127.0.0.1:3478 stun.example:19302]":
				t.Errorf("got STUN servers %v", ice.STUN)
			}
		})
	}
}

func TestClientErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		status int
		header string
		body   string
		is     error
		says   string
	}{
		{"busy", 429, "60", `{"error":"too many rooms"}`, signal.ErrBusy, "too many rooms (429)"},
		{"full", 503, "60", `{"error":"full"}`, signal.ErrBusy, "full (503)"},
		{"escape sequences", 400, "", `{"error":"red \u001b[31m\u202eand\nlines"}`, nil, "red [31mandlines (400)"},
		{"no json", 403, "", `<html>`, nil, "replied 403"},
		{"not a rendezvous", 200, "", `<html>`, nil, "not that of a rendezvous"},
		{"no fields", 200, "", `{}`, nil, "not that of a rendezvous"},
		{"bad id", 201, "", `{"nameplate":"1234","id":"../../../../etc/passwd","token":"0123456789abcdef","seconds":9}`, nil, "not that of a rendezvous"},
		{"bad nameplate", 201, "", `{"nameplate":"12\r\n34","id":"0123456789abcdef","token":"0123456789abcdef","seconds":9}`, nil, "not that of a rendezvous"},
		{"forever", 201, "", `{"nameplate":"1234","id":"0123456789abcdef","token":"0123456789abcdef","seconds":99999999999}`, nil, "not that of a rendezvous"},
		{"huge", 200, "", strings.Repeat("x", 1<<20), nil, "too long"},
		{"elsewhere", 301, "", "", nil, "redirects to /other: use that URL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c.header != "" {
					w.Header().Set("Retry-After", c.header)
				}
				if c.status == 301 {
					w.Header().Set("Location", "/other")
				}
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			defer web.Close()
			client := &signal.Client{URL: web.URL}
			defer client.CloseIdle()
			_, err := client.Create(within(t, 10*time.Second))
			if err == nil || !strings.Contains(err.Error(), c.says) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("got %v, want it to say %q and be %v", err, c.says, c.is)
			}
		})
	}
}

// A rendezvous that is not there is asked for a while, and no longer than ctx allows.
func TestClientUnreachable(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	_, err := (&signal.Client{URL: "http://127.0.0.1:1"}).Create(ctx) // a port that no test gets
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connect") {
		t.Errorf("got %v, want the deadline and what went wrong", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %v, want 1 s", took)
	}
}

// A server with a certificate that nobody vouches for is not asked twice.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	web := httptest.NewUnstartedServer(http.NotFoundHandler())
	web.Config.ErrorLog = log.New(io.Discard, "", 0)
	web.StartTLS()
	defer web.Close()
	began := time.Now()
	_, err := (&signal.Client{URL: web.URL}).Create(within(t, 10*time.Second))
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v, want an error about the certificate", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %v: it tried again", took)
	}
	ours := &signal.Client{URL: web.URL, HTTP: web.Client()}
	if _, err := ours.ICE(within(t, 10*time.Second)); !errors.Is(err, signal.ErrNoRoom) {
		t.Errorf("got %v, want the 404 of a trusted server", err)
	}
}

// Whoever is on the way chooses the names in a certificate: they do not reach a terminal as they are.
func TestClientCertificateNames(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"a\x1b]0;x\x07b.example"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewUnstartedServer(http.NotFoundHandler())
	web.Config.ErrorLog = log.New(io.Discard, "", 0)
	web.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	web.StartTLS()
	defer web.Close()
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "meet.example"}}
	defer transport.CloseIdleConnections()
	_, err = (&signal.Client{URL: web.URL, HTTP: &http.Client{Transport: transport}}).ICE(within(t, 10*time.Second))
	var names x509.HostnameError
	if !errors.As(err, &names) || !strings.Contains(names.Error(), "\x1b") {
		t.Fatalf("got %v, want a certificate for another name", err)
	}
	if text := err.Error(); strings.ContainsAny(text, "\x1b\x07") || !strings.Contains(text, "b.example, not meet.example") {
		t.Errorf("got %q, want both names and nothing for the terminal", text)
	}
}

func TestICELeavesOutNonsense(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"stun":["a:1","b","c:0","d:65536",":5","[::1]:3478","e:x","","\u001b]0;x\u0007:3478"," f:1","\u202eg:1"]}`)
	}))
	defer web.Close()
	client := &signal.Client{URL: web.URL}
	defer client.CloseIdle()
	ice, err := client.ICE(t.Context())
	if got, want := fmt.Sprint(ice.STUN), "[a:1 [::1]:3478]"; err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}
