//go:build unix

package acceptance

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// variable sets a variable of the process's environment.
func variable(name, value string) setting {
	return func(c *exec.Cmd) { c.Env = append(c.Env, name+"="+value) }
}

// An authority has the files of a certificate for some addresses that is its own authority. Who is to trust
// it has it in SSL_CERT_FILE.
type authority struct{ cert, key string }

func newAuthority(t testing.TB, addrs ...netip.Addr) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	for _, a := range addrs {
		template.IPAddresses = append(template.IPAddresses, a.AsSlice())
	}
	cert, err := x509.CreateCertificate(cryptorand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	a := authority{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	for name, b := range map[string]*pem.Block{a.cert: {Type: "CERTIFICATE", Bytes: cert}, a.key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// relaySecret is what the rendezvous and the relays of a test have in common.
const relaySecret = "a secret of the tests, and long"

// awaitTCP waits until something listens on TCP inside h.
func awaitTCP(t testing.TB, h *netlab.Host, at netip.AddrPort) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(patience); ; <-tick.C {
		c, err := h.Dial(t.Context(), "tcp", at)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("nobody listens at %v: %v", at, err)
		}
	}
}

// coturn runs Debian's TURN server on h, with TLS.
func coturn(t testing.TB, h *netlab.Host, tls authority) {
	t.Helper()
	tool(t, "turnserver")
	dir := t.TempDir()
	addr := h.Addr().String()
	start(t, h, "coturn", []string{"turnserver", "-n", "--use-auth-secret", "--static-auth-secret=" + relaySecret, "--realm=lab",
		"--listening-ip=" + addr, "--relay-ip=" + addr, "--no-cli", "--no-dtls", "--listening-port=3478", "--tls-listening-port=5349",
		"--cert=" + tls.cert, "--pkey=" + tls.key, "--log-file=stdout", "--simple-log", "--pidfile=" + dir + "/pid", "--userdb=" + dir + "/db"})
	awaitTCP(t, h, netip.AddrPortFrom(h.Addr(), 5349))
}

// TestRelayTransports sends a file by every kind of relay, ours and coturn's: 10 MB of it, or 100 MB in
// the full tier. Both sides have a relay alone, so that nothing passes beside it.
func TestRelayTransports(t *testing.T) {
	testtier.Long(t)
	size := int64(10e6)
	if testtier.IsFull() {
		size = 100e6
	}
	w := newWorld(t)
	ours, theirs, meeting := w.lab.Public("relay"), w.lab.Public("coturn"), w.lab.Public("meeting")
	tls := newAuthority(t, ours.Addr(), theirs.Addr())
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(relaySecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(ours.Addr(), 3478).String()
	s := w.run(ours, "serve", "--http", netip.AddrPortFrom(ours.Addr(), 443).String(), "--tls-cert", tls.cert, "--tls-key", tls.key,
		"--stun", at, "--external-ip", ours.Addr().String(), "--turn", "--turn-allow", "198.51.100.0/24", "--turn-rate", "none",
		"--turn-secret", secret)
	s.await("listening")
	awaitTCP(t, ours, netip.AddrPortFrom(ours.Addr(), 443))
	left, right := w.lab.Host(netlab.None, netlab.HostOptions{}), w.lab.Host(netlab.None, netlab.HostOptions{})
	for i, c := range []struct{ name, url, transport string }{
		{"UDP", "turn:" + at + "?transport=udp", "udp"},
		{"TCP", "turn:" + at + "?transport=tcp", "tcp"},
		{"TLS at the port of HTTPS", fmt.Sprintf("turns:%v:443?transport=tcp", ours.Addr()), "tls"},
		{"HTTP", "", "https"},
		{"coturn, UDP", fmt.Sprintf("turn:%v:3478?transport=udp", theirs.Addr()), "udp"},
		{"coturn, TCP", fmt.Sprintf("turn:%v:3478?transport=tcp", theirs.Addr()), "tcp"},
		{"coturn, TLS", fmt.Sprintf("turns:%v:5349?transport=tcp", theirs.Addr()), "tls"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := w.in(t)
			if strings.HasPrefix(c.name, "coturn") {
				coturn(t, theirs, tls)
			}
			// A rendezvous that knows this one relay, or none and carries.
			web := netip.AddrPortFrom(meeting.Addr(), uint16(8080+i))
			args := []string{"serve", "--http", web.String(), "--stun", "none", "--turn-url", c.url, "--turn-secret", secret}
			if c.url == "" {
				args = []string{"serve", "--http", web.String(), "--stun", "none", "--carry", "--carry-rate", "1G"}
			}
			w.run(meeting, args...).await("listening")
			w.signal = "http://" + web.String()

			trust := variable("SSL_CERT_FILE", tls.cert)
			target := listen(t, left, func(conn net.Conn) { _, _ = io.Copy(conn, random(7, size)) })
			exposer := w.runWith(left, []setting{trust}, "expose", target.String(), "--signal", w.signal, "--path", "relay")
			e, _ := exposer.await("code")
			connecter := w.runWith(right, []setting{trust}, "connect", e.code(), "-L", "0", "--signal", w.signal, "--path", "relay")
			up, _ := connecter.await("up")
			if up.Path != "relay" || up.Transport != c.transport {
				t.Errorf("path %s %s, want relay %s", up.Path, up.Transport, c.transport)
			}
			listening, _ := connecter.await("listening")
			port, err := netip.ParseAddrPort(listening.Addr)
			if err != nil {
				t.Fatal(err)
			}
			want, got := sha256.New(), sha256.New()
			if _, err := io.Copy(want, random(7, size)); err != nil {
				t.Fatal(err)
			}
			conn := dial(t, right, port)
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Minute))
			began := time.Now()
			n, err := io.Copy(got, conn)
			took := time.Since(began)
			if err != nil || n != size || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
				t.Errorf("%d bytes, %v, SHA-256 %x; want %d, %x", n, err, got.Sum(nil), size, want.Sum(nil))
			}
			t.Logf("%d MB by %s from %s to %s: %.0f Mbit/s, SHA-256 equal: %v", size/1e6, up.Transport, up.Remote, up.Local,
				float64(size)*8/1e6/took.Seconds(), bytes.Equal(got.Sum(nil), want.Sum(nil)))
			if rate := float64(size) * 8 / 1e6 / took.Seconds(); testtier.IsFull() && i == 0 && rate < 200 {
				t.Errorf("%.0f Mbit/s by UDP, want 200", rate)
			}
			ends(connecter, exposer)
		})
	}
}
