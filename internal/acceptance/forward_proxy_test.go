//go:build unix

package acceptance

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// TestForwardProxies: a machine whose only way out is a proxy, of HTTP or SOCKS, with a password or without, meets at
// an http:// rendezvous and has its packets carried; a wrong password is the proxy's in what adit says.
func TestForwardProxies(t *testing.T) {
	testtier.Long(t)
	type proxy struct {
		name, scheme, user string
		program            func(at netip.AddrPort, dir string) []string
	}
	config := func(dir, text string) string {
		file := filepath.Join(dir, "config")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	tinyproxy := func(more string) func(netip.AddrPort, string) []string {
		return func(at netip.AddrPort, dir string) []string {
			return []string{"tinyproxy", "-d", "-c", config(dir, fmt.Sprintf("Port %d\nListen %v\nTimeout 600\nMaxClients 50\nConnectPort 8080\n%s\n", at.Port(), at.Addr(), more))}
		}
	}
	all := []proxy{
		{"tinyproxy with a password", "http", "somebody:secret@", tinyproxy("BasicAuth somebody secret")},
		{"microsocks with a password", "socks5h", "somebody:secret@", func(at netip.AddrPort, _ string) []string {
			return []string{"microsocks", "-i", at.Addr().String(), "-p", fmt.Sprint(at.Port()), "-u", "somebody", "-P", "secret"}
		}},
		{"squid", "http", "", func(at netip.AddrPort, dir string) []string {
			return []string{"squid", "-N", "-f", config(dir, fmt.Sprintf(`http_port %v
acl tunnels port 8080
http_access allow tunnels
http_access deny all
cache deny all
pid_filename none
access_log none
cache_log /dev/null
cache_store_log none
shutdown_lifetime 1 seconds
`, at))}
		}},
		{"tinyproxy", "http", "", tinyproxy("")},
		{"microsocks", "socks5", "", func(at netip.AddrPort, _ string) []string {
			return []string{"microsocks", "-i", at.Addr().String(), "-p", fmt.Sprint(at.Port())}
		}},
	}
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			w := &world{t: t, adit: adit(t), lab: netlab.New(t)}
			server, via := w.lab.Public("rendezvous"), w.lab.Public("proxy")
			w.serve(server, "--carry")
			at := netip.AddrPortFrom(via.Addr(), 8888)
			args := p.program(at, t.TempDir())
			tool(t, args[0])
			front := start(t, via, args[0], args)
			awaitTCP(t, via, at)
			left, right := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}), w.lab.Host(netlab.UDPBlocked, netlab.HostOptions{})
			rules(t, right, fmt.Sprintf(`
table inet only {
	chain output { type filter hook output priority 0; policy drop;
		oifname "lo" accept
		ip daddr %v tcp dport %d accept
	}
}
`, at.Addr(), at.Port()))
			exposer, code := w.expose(left, "22")
			connecter := w.runWith(right, []setting{variable("ALL_PROXY", p.scheme+"://"+p.user+at.String())}, "connect", code, "-L", "0", "--signal", w.signal)
			if up, _ := connecter.await("up"); up.Path != "relay" || up.Transport != "https" {
				t.Errorf("path %s %s, want relay https", up.Path, up.Transport)
			}
			ends(connecter, exposer)
			if p.user != "" {
				connecter = w.runWith(right, []setting{variable("ALL_PROXY", p.scheme+"://somebody:else@"+at.String())}, "connect", code, "-L", "0", "--signal", w.signal)
				if e := connecter.fails(exitSignal, patience); !strings.Contains(e.Message, "the proxy ") || !strings.Contains(e.Message, at.String()) || strings.Contains(e.Message, "else") {
					t.Errorf("a wrong password: %q", e.Message)
				}
			}
			front.interrupt()
		})
	}
}

// TestBlindSTUN: a STUN server behind a proxy of its own, as in a container, is told from one that sees its clients.
func TestBlindSTUN(t *testing.T) {
	w := &world{t: t, adit: adit(t), lab: netlab.New(t)}
	inside := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
	h := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
	c := inside.RouterCommand(t.Context(), "nft", "-f", "-")
	c.Stdin = strings.NewReader(fmt.Sprintf(`
table ip container {
	chain in { type nat hook prerouting priority dstnat - 1; policy accept; iifname "wan" udp dport { 3478, 3479 } dnat to %v; }
	chain out { type nat hook postrouting priority srcnat - 1; policy accept; oifname "lan" masquerade; }
}
`, inside.Addr()))
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	w.run(inside, "serve", "--http", "127.0.0.1:8080", "--stun", inside.Addr().String()+":3478").await("listening")
	blind := inside.PublicAddr().String() + ":3478"
	d, p := w.doctor(h, 0, "--stun", blind, "--no-port-mapping")
	if !d.IPv4.UDP || len(d.IPv4.Public) > 0 || !strings.Contains(p.out.String(), "behind a NAT or a proxy of its own") {
		t.Errorf("doctor says %+v\n%s", d.IPv4, p.out)
	}
}
