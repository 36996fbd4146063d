//go:build unix

package acceptance

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// rules adds nftables rules to a host.
func rules(t testing.TB, h *netlab.Host, text string) {
	t.Helper()
	c := h.Command(t.Context(), "nft", "-f", "-")
	c.Stdin = strings.NewReader(text)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
}

// TestHidden: who allows relays alone is not found out by its peer: nothing passes between the two, and the peer
// sends nothing to any address of it.
func TestHidden(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	w := newRelayWorld(t)
	left, right := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}), w.lab.Host(netlab.None, netlab.HostOptions{})
	rules(t, right, fmt.Sprintf(`
table ip watch {
	set hidden { type ipv4_addr; elements = { %v, %v } }
	chain in { type filter hook input priority 0;
		ip saddr @hidden counter
	}
	chain out { type filter hook output priority 0;
		ip daddr @hidden counter
	}
}
`, left.Addr(), left.PublicAddr()))
	exposer, code := w.expose(left, "22", "--path", "relay")
	connecter := w.connect(right, code, "-v")
	up, _ := connecter.await("up")
	if up.Path != "relay" || up.Transport != "udp" {
		t.Errorf("path %s %s, want relay udp", up.Path, up.Transport)
	}
	ends(connecter, exposer)
	out, err := right.Command(context.WithoutCancel(t.Context()), "nft", "list", "table", "ip", "watch").CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	if n := strings.Count(string(out), "counter packets 0 bytes 0"); n != 2 {
		t.Errorf("packets between the two that should be none:\n%s", out)
	}
	for _, addr := range []netip.Addr{left.Addr(), left.PublicAddr()} {
		if strings.Contains(connecter.err.String()+connecter.out.String(), addr.String()) {
			t.Errorf("the peer has heard of %v", addr)
		}
	}
}

// TestProxy: who reaches nothing but a proxy for HTTPS meets by it, and has a relay by it: TURN over TLS, by CONNECT.
func TestProxy(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	tool(t, "tinyproxy")
	w := &world{t: t, adit: adit(t), lab: netlab.New(t)}
	server, proxy := w.lab.Public("rendezvous"), w.lab.Public("proxy")
	tls := newAuthority(t, server.Addr())
	web := netip.AddrPortFrom(server.Addr(), 443)
	w.server = w.run(server, "serve", "--http", web.String(), "--tls-cert", tls.cert, "--tls-key", tls.key, "--external-ip", server.Addr().String(),
		"--stun", netip.AddrPortFrom(server.Addr(), 3478).String(), "--turn", "--turn-allow", "198.51.100.0/24")
	awaitTCP(t, server, web)
	w.signal = "https://" + web.String()

	at := netip.AddrPortFrom(proxy.Addr(), 8888)
	config := filepath.Join(t.TempDir(), "tinyproxy.conf")
	if err := os.WriteFile(config, []byte(fmt.Sprintf("Port %d\nListen %v\nTimeout 600\nMaxClients 50\nLogLevel Connect\nConnectPort 443\nBasicAuth somebody secret\n", at.Port(), at.Addr())), 0o600); err != nil {
		t.Fatal(err)
	}
	tinyproxy := start(t, proxy, "tinyproxy", []string{"tinyproxy", "-d", "-c", config})
	awaitTCP(t, proxy, at)

	left, right := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}), w.lab.Host(netlab.UDPBlocked, netlab.HostOptions{})
	rules(t, right, fmt.Sprintf(`
table inet only {
	chain output { type filter hook output priority 0; policy drop;
		oifname "lo" accept
		ip daddr %v tcp dport %d accept
	}
}
`, at.Addr(), at.Port()))
	sshd := newSSHServer(t, left)
	trust := variable("SSL_CERT_FILE", tls.cert)
	exposer := w.runWith(left, []setting{trust}, "expose", fmt.Sprintf("localhost:%d", sshPort), "--signal", w.signal)
	e, _ := exposer.await("code")
	connecter := w.runWith(right, []setting{trust, variable("HTTPS_PROXY", "http://somebody:secret@"+at.String())},
		"connect", e.code(), "-L", "0", "--signal", w.signal)
	began := connecter.out.began
	up, when := connecter.await("up")
	t.Logf("%s %s after %d ms: %s to %s", up.Path, up.Transport, when.Sub(began).Milliseconds(), up.Local, up.Remote)
	if up.Path != "relay" || up.Transport != "tls" {
		t.Errorf("path %s %s, want relay tls", up.Path, up.Transport)
	}
	listening, _ := connecter.await("listening")
	port, err := netip.ParseAddrPort(listening.Addr)
	if err != nil {
		t.Fatal(err)
	}
	sshd.over(right, port)
	sshd.copy(right, port, 4<<20)
	ends(connecter, exposer)
	if n := strings.Count(tinyproxy.out.String()+tinyproxy.err.String(), "CONNECT "+web.String()); n < 2 {
		t.Errorf("%d CONNECT requests, want one for the rendezvous and one for the relay at least:\n%s", n, tinyproxy.out)
	}
	tinyproxy.interrupt()
}
