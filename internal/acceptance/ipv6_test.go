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

// TestIPv6 joins hosts without IPv4: with each other and, where their network has a NAT64, with those that have
// nothing else. The rendezvous, its STUN server and its relay are at IPv4 addresses.
func TestIPv6(t *testing.T) {
	testtier.Long(t)
	v6 := func(l *netlab.Lab) *netlab.Host { return l.IPv6Only(true) }
	v4 := func(k netlab.NAT) func(*netlab.Lab) *netlab.Host {
		return func(l *netlab.Lab) *netlab.Host { return l.Host(k, netlab.HostOptions{}) }
	}
	both := func(l *netlab.Lab) *netlab.Host { return l.Host(netlab.PortRestricted, netlab.HostOptions{IPv6: true}) }
	for _, c := range []struct {
		name        string
		left, right func(*netlab.Lab) *netlab.Host
		path        string
		remote      string // the prefix of the address that the connecter's packets go to
		slow        bool
	}{
		{"IPv6 alone at both", v6, v6, "direct", "2001:db8:", false},
		{"both families at both", both, both, "direct", "2001:db8:", true},
		{"a NAT64 at the connecter", v4(netlab.PortRestricted), v6, "direct", "198.51.100.", false},
		{"a NAT64 at the exposer", v6, v4(netlab.FullCone), "direct", "198.51.100.", false},
		{"a NAT64 and no NAT", v4(netlab.None), v6, "direct", "198.51.100.", true},
		{"a NAT64 and a hard NAT", v4(netlab.Symmetric), v6, "direct", "198.51.100.", true},
		{"a NAT64, and UDP blocked", v4(netlab.UDPBlocked), v6, "relay", "198.51.100.", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.slow {
				testtier.Full(t)
			}
			t.Parallel()
			w := newRelayWorld(t)
			left, right := c.left(w.lab), c.right(w.lab)
			sshd := newSSHServer(t, left)
			for range rounds() {
				exposer, code := w.expose(left, fmt.Sprintf("localhost:%d", sshPort))
				began := time.Now()
				connecter, port := w.forward(right, code)
				all, _, _ := connecter.events()
				for _, e := range all {
					if e.Name != "up" {
						continue
					}
					t.Logf("%s path after %d ms: %s to %s", e.Path, time.Since(began).Milliseconds(), e.Local, e.Remote)
					if _, addr, _ := strings.Cut(e.Remote, " "); !strings.HasPrefix(strings.TrimPrefix(addr, "["), c.remote) {
						t.Errorf("remote address %s, want %s…", e.Remote, c.remote)
					}
					for e.Path != c.path {
						e, _ = connecter.awaitFor("up", natLimit) // from the relay
						t.Logf("%s path after %d ms: %s to %s", e.Path, time.Since(began).Milliseconds(), e.Local, e.Remote)
					}
				}
				sshd.over(right, port)
				sshd.copy(right, port, 1<<20)
				ends(connecter, exposer)
			}
		})
	}
}
