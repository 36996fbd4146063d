//go:build unix

package acceptance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// TestVerdicts: who finds no path, or no direct one, says why in the words that fit, on both sides, and what would help.
func TestVerdicts(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	plain, relay := newWorld(t), newRelayWorld(t)
	host := func(w *world, k netlab.NAT) *netlab.Host { return w.lab.Host(k, netlab.HostOptions{}) }
	// keepApart drops UDP between the networks of two hosts.
	keepApart := func(a, b *netlab.Host) {
		c := a.RouterCommand(t.Context(), "nft", "-f", "-")
		c.Stdin = strings.NewReader(fmt.Sprintf(`
table ip apart {
	chain in { type filter hook prerouting priority raw; policy accept;
		ip saddr %[1]v meta l4proto udp drop
	}
	chain out { type filter hook forward priority 0; policy accept;
		ip daddr %[1]v meta l4proto udp drop
	}
}
`, b.PublicAddr()))
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("nft: %v: %s", err, out)
		}
	}
	type side struct {
		flags         []string
		message, hint string // parts; no message: this side is not looked at
	}
	type running struct {
		name               string
		exposer, connecter *process
		left, right        side
		relayed            bool
	}
	const turn = `"adit serve --turn"`
	var all []running
	for _, c := range []struct {
		name        string
		w           *world
		a, b        netlab.NAT
		prepare     func(left, right *netlab.Host)
		left, right side
		relayed     bool // the session is up by a relay, and says why it stays there
	}{
		{"UDP blocked at both", plain, netlab.UDPBlocked, netlab.UDPBlocked, nil,
			side{nil, "neither knows its public one, and there is no relay", turn}, side{nil, "neither knows its public one", "let UDP out of both networks"}, false},
		{"UDP blocked at one", plain, netlab.PortRestricted, netlab.UDPBlocked, nil,
			side{nil, "told the other side its public one", "let UDP out of the other side's network"}, side{nil, "told this side its public one", "let UDP out of this side's network"}, false},
		{"two hard NATs", plain, netlab.Symmetric, netlab.SymmetricSequential, nil,
			side{[]string{"--port", "4000"}, "both NATs change ports per destination, and there is no relay", "forward UDP port 4000"}, side{nil, "both NATs change ports per destination", turn}, false},
		{"a firewall", plain, netlab.PortRestricted, netlab.PortRestricted, keepApart,
			side{nil, "was answered, and there is no relay", "look for a firewall"}, side{nil, "was answered", "look for a firewall"}, false},
		{"a hard NAT and a firewall", plain, netlab.Symmetric, netlab.PortRestricted, keepApart,
			side{nil, "this side's NAT changes ports per destination", "forward"}, side{nil, "the other side's NAT changes ports per destination", "forward"}, false},
		{"a firewall that knows STUN", plain, netlab.None, netlab.None, func(left, right *netlab.Host) {
			rules(t, left, `
table ip only {
	chain in { type filter hook input priority 0; policy accept;
		udp dport 1024-65535 @th,96,32 != 0x2112a442 drop
	}
}
`)
		}, side{nil, "no sealed probe came back", "lets STUN pass and nothing else"}, side{nil, "no sealed probe came back", "lets STUN pass and nothing else"}, false},
		{"a relay, but there is none", plain, netlab.None, netlab.None, nil,
			side{nil, "the other side has no address to be reached at", turn}, side{[]string{"--path", "relay"}, "only relays may be used, and there is none", "--turn"}, false},
		{"a relay, but not wanted", relay, netlab.PortRestricted, netlab.UDPBlocked, nil,
			side{[]string{"--path", "direct"}, "--path direct leaves the relay out", "--path auto"}, side{nil, "no packet came back through a relay", "--verbose"}, false},
		{"a relay, and UDP blocked", relay, netlab.PortRestricted, netlab.UDPBlocked, nil,
			side{nil, "no direct path: no connectivity check", "the other side's network"}, side{nil, "told this side its public one", "let UDP out of this side's network"}, true},
		{"a relay, and two hard NATs", relay, netlab.Symmetric, netlab.Symmetric, nil,
			side{nil, "no direct path: both NATs change ports per destination", "forward"}, side{nil, "no direct path: both NATs change ports per destination", "forward"}, true},
	} {
		left, right := host(c.w, c.a), host(c.w, c.b)
		if c.prepare != nil {
			c.prepare(left, right)
		}
		exposer, code := c.w.expose(left, append([]string{"22"}, c.left.flags...)...)
		connecter := c.w.connect(right, code, append([]string{"-L", "0"}, c.right.flags...)...)
		all = append(all, running{name: c.name, exposer: exposer, connecter: connecter, left: c.left, right: c.right, relayed: c.relayed})
	}
	for _, x := range all {
		for _, s := range []struct {
			p    *process
			want side
		}{{x.exposer, x.left}, {x.connecter, x.right}} {
			var e event
			if x.relayed {
				e, _ = s.p.awaitFor("relayed", goneLimit+patience)
				t.Logf("%s: %s: %s (%s)", x.name, s.p.label, e.Message, e.Hint)
			} else {
				e = s.p.fails(exitNoPath, goneLimit+patience)
			}
			if !strings.Contains(e.Message, s.want.message) || !strings.Contains(e.Hint, s.want.hint) {
				t.Errorf("%s: %s says %q (%q), want %q (%q)", x.name, s.p.label, e.Message, e.Hint, s.want.message, s.want.hint)
			}
		}
		if x.relayed {
			ends(x.connecter, x.exposer)
		}
	}
}

// TestNoNetwork: a machine without any network says so.
func TestNoNetwork(t *testing.T) {
	testtier.Long(t)
	w := newWorld(t)
	h := w.lab.Public("alone")
	command(t, h, []string{"ip", "link", "set", "eth0", "down"})
	w.run(h, "serve", "--http", "127.0.0.1:8080", "--stun", "none").await("listening")
	w.signal = "http://127.0.0.1:8080"
	exposer, code := w.expose(h, "22")
	connecter := w.connect(h, code)
	for _, p := range []*process{exposer, connecter} {
		if e := p.fails(exitNoPath, time.Minute); !strings.Contains(e.Message, "no address to be reached at") || !strings.Contains(e.Hint, "network") {
			t.Errorf("%s says %q (%q)", p.label, e.Message, e.Hint)
		}
	}
}
