package cmd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"adit/internal/event"
	"adit/internal/fail"
)

func TestPrefixes(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.0/8": "[10.0.0.0/8]", "10.1.2.3/8": "[10.0.0.0/8]", "127.0.0.1": "[127.0.0.1/32]",
		"::1": "[::1/128]", "::ffff:10.0.0.1": "[10.0.0.1/32]", "fd00::/8": "[fd00::/8]",
		"": "", "10.0.0.0/33": "", "proxy": "", "::ffff:10.0.0.0/104": "", "fe80::1%eth0": "",
	} {
		got, err := prefixes([]string{in})
		if want == "" {
			if f := failureOf(err); f == nil || f.Code != fail.Usage {
				t.Errorf("%q: %v, %v; want a usage failure", in, got, err)
			}
			continue
		}
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v, %v; want %s", in, got, err, want)
		}
	}
}

// TestTrustedProxy holds that behind a proxy one address that guesses codes locks out itself alone.
func TestTrustedProxy(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	at := make(chan string, 1)
	u, _, _ := screen(func(u *ui) {
		u.observer = func(e event.Event) {
			if e.Target == "http" {
				at <- e.Addr
			}
		}
	})
	served := make(chan error, 1)
	go func() {
		served <- serve(ctx, u, serveConfig{http: "127.0.0.1:0", stun: "none", turn: turnConfig{ports: "1-2", allocations: 1, allocationsOfOne: 1}, proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	}()
	defer func() {
		cancel(errInterrupted)
		if err := <-served; !errors.Is(err, errInterrupted) {
			t.Errorf("serve: %v", err)
		}
	}()
	var url string
	select {
	case addr := <-at:
		url = "http://" + addr + "/v1/room/9999/join"
	case err := <-served:
		served <- err
		return // it is reported above
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	join := func(from string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/adit")
		req.Header.Set("X-Forwarded-For", from)
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	last := 0
	for range 20 {
		last = join("192.0.2.1")
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("the twentieth guess of an address: %d, want 429", last)
	}
	if got := join("192.0.2.2"); got != http.StatusNotFound {
		t.Errorf("the first of another: %d, want 404", got)
	}
}

// selfSigned writes a certificate with a serial number, and its key.
func selfSigned(t *testing.T, dir string, serial int64) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// TestCertificateIsReplaced has a server go over to the successor of its certificate, and stay with the
// one it has if that is damaged.
func TestCertificateIsReplaced(t *testing.T) {
	dir := t.TempDir()
	cert, key := selfSigned(t, dir, 1)
	secure, from, err := certificate(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	served := func() string {
		c, err := secure.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(c.Certificate[0])
	}
	first := served()
	selfSigned(t, dir, 2)
	if served() != first {
		t.Error("it was replaced before anybody said so")
	}
	if err := from.load(cert, key); err != nil || served() == first {
		t.Errorf("after the files were read again: %v, and the first one: %v", err, served() == first)
	}
	second := served()
	if err := os.WriteFile(cert, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := from.load(cert, key); failureOf(err).Code != fail.Usage || served() != second {
		t.Errorf("a damaged file: %v", err)
	}
	var none *certificates
	if err := none.load("", ""); err != nil {
		t.Errorf("a server without one: %v", err)
	}
}
