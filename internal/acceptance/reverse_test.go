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

// documented returns the indented block that follows a line of docs/rendezvous.md which ends like that.
func documented(t *testing.T, after string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/rendezvous.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(page), after+"\n\n    ")
	if !ok {
		t.Fatalf("docs/rendezvous.md has no block after %q", after)
	}
	var out []string
	for line := range strings.Lines("    " + rest) {
		if strings.TrimSpace(line) != "" && !strings.HasPrefix(line, "    ") {
			break
		}
		out = append(out, strings.TrimPrefix(line, "    "))
	}
	return strings.Join(out, "")
}

// TestReverseProxies: behind the proxies of docs/rendezvous.md, as the page has them, and behind an nginx that is told
// nothing, peers meet, learn their public addresses, and where nothing else is left their packets are carried.
func TestReverseProxies(t *testing.T) {
	testtier.Long(t)
	type proxy struct {
		config func(at netip.AddrPort) string
		args   func(file string) []string
	}
	nginx := func(location string) proxy {
		return proxy{func(at netip.AddrPort) string {
			return fmt.Sprintf("daemon off; worker_processes 1; pid pid; error_log stderr; events {}\nhttp { access_log off; server { listen %v; %s } }", at, location)
		}, func(file string) []string { return []string{"nginx", "-p", filepath.Dir(file), "-c", file} }}
	}
	all := map[string]proxy{
		"nginx":      nginx(documented(t, "nginx:")),
		"bare nginx": nginx("location / { proxy_pass http://127.0.0.1:8080; }"),
		"caddy": {func(at netip.AddrPort) string {
			return "{\n\tadmin off\n}\n" + strings.Replace(documented(t, "Caddy:"), "meet.example.org", "http://"+at.String(), 1)
		}, func(file string) []string {
			return []string{"caddy", "run", "--adapter", "caddyfile", "--config", file}
		}},
		"haproxy": {func(at netip.AddrPort) string {
			return strings.Replace(documented(t, "haproxy:"), ":443 ssl crt /etc/ssl/meet.pem", at.String(), 1)
		}, func(file string) []string { return []string{"haproxy", "-db", "-f", file} }},
	}
	for _, name := range []string{"bare nginx", "nginx", "haproxy", "caddy"} {
		p := all[name]
		t.Run(name, func(t *testing.T) {
			at := netip.AddrPort{}
			w := &world{t: t, adit: adit(t), lab: netlab.New(t)}
			tool(t, p.args("")[0])
			server := w.lab.Public("rendezvous")
			at = netip.AddrPortFrom(server.Addr(), 80)
			w.server = w.run(server, "serve", "--http", "127.0.0.1:8080", "--stun", server.Addr().String()+":3478", "--trusted-proxy", "127.0.0.1", "--carry", "--log", "text")
			awaitTCP(t, server, netip.MustParseAddrPort("127.0.0.1:8080"))
			file := filepath.Join(t.TempDir(), "config")
			if err := os.WriteFile(file, []byte(p.config(at)), 0o644); err != nil {
				t.Fatal(err)
			}
			front := start(t, server, name, p.args(file), variable("HOME", filepath.Dir(file)), variable("XDG_DATA_HOME", filepath.Dir(file)))
			awaitTCP(t, server, at)
			w.signal = "http://" + at.String()

			left, right := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}), w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
			exposer, code := w.expose(left, "22")
			connecter := w.connect(right, code, "-L", "0")
			if up, _ := connecter.await("up"); up.Path != "direct" {
				t.Errorf("path %s: the STUN server's address did not get through", up.Path)
			}
			ends(connecter, exposer)

			said := func(text string) {
				t.Helper()
				if log := w.server.out.String() + w.server.err.String(); strings.Count(log, text) != 1 {
					t.Errorf("the server says %d times %q:\n%s", strings.Count(log, text), text, log)
				}
			}
			if name == "bare nginx" {
				said("does not pass the Host header on")
			}
			shut := w.lab.Host(netlab.UDPBlocked, netlab.HostOptions{})
			exposer, code = w.expose(left, "22")
			connecter = w.connect(shut, code, "-L", "0")
			if name == "bare nginx" { // it cannot know what to do with Upgrade
				if e := connecter.fails(exitNoPath, goneLimit+patience); !strings.Contains(e.Message+e.Hint, "Upgrade") {
					t.Errorf("%q (%q) says nothing of Upgrade", e.Message, e.Hint)
				}
				exposer.exit(goneLimit + patience)
				said("does not pass the Upgrade")
			} else {
				if up, _ := connecter.await("up"); up.Path != "relay" || up.Transport != "https" {
					t.Errorf("path %s %s, want relay https", up.Path, up.Transport)
				}
				ends(connecter, exposer)
			}
			front.interrupt()
		})
	}
}
