package punch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"adit/internal/stunmsg"
	"adit/internal/testtier"
)

// naiveNAT is a port-restricted NAT as Linux makes it, without the firewall that most routers have
// in front of themselves: a packet that nobody asked for leaves an entry in its table, which takes
// the port away from a machine inside (an early packet).
const naiveNAT = `table ip nat {
	chain post {
		type nat hook postrouting priority srcnat; policy accept;
		oifname %q masquerade
	}
}
`

// row joins namespaces in a row. Each has an interface "east" to its successor and "west" to its
// predecessor; the network between i and i+1 is 10.i.0.0/24. The second and the last but one are
// NATs for the first and the last.
func row(t *testing.T, n int) []*space {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nftables:", err)
	}
	spaces := make([]*space, n)
	for i := range spaces {
		spaces[i] = newSpace(t)
		spaces[i].sh(t, "sysctl -qw net.ipv4.ip_forward=1")
	}
	for i, s := range spaces[:n-1] {
		next := spaces[i+1]
		s.sh(t, fmt.Sprintf("ip link add east type veth peer name west netns %d", next.tid))
		s.sh(t, fmt.Sprintf("ip addr add 10.%d.0.1/24 dev east", i))
		next.sh(t, fmt.Sprintf("ip addr add 10.%d.0.2/24 dev west", i))
		s.sh(t, "ip link set east up")
		next.sh(t, "ip link set west up")
	}
	for i, s := range spaces {
		for net := range n - 1 {
			switch {
			case net > i:
				s.sh(t, fmt.Sprintf("ip route add 10.%d.0.0/24 via 10.%d.0.2", net, i))
			case net < i-1:
				s.sh(t, fmt.Sprintf("ip route add 10.%d.0.0/24 via 10.%d.0.1", net, i-1))
			}
		}
	}
	for i, out := range map[int]string{1: "east", n - 2: "west"} {
		rules := filepath.Join(t.TempDir(), "rules.nft")
		if err := os.WriteFile(rules, fmt.Appendf(nil, naiveNAT, out), 0o600); err != nil {
			t.Fatal(err)
		}
		spaces[i].sh(t, "nft -f "+rules)
	}
	return spaces
}

// echo is a STUN server in a namespace.
func (s *space) echo(t *testing.T, addr netip.Addr) string {
	t.Helper()
	var c *net.UDPConn
	var err error
	s.in(func() { c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 3478))) })
	if err != nil {
		t.Fatal(err)
	}
	serve(t, c, func(id stunmsg.ID, from netip.AddrPort) []byte { return success(id, from) })
	return c.LocalAddr().String()
}

// The side that answered checks first, while the other does not know of it yet.
func TestEarlyPacket(t *testing.T) {
	for _, test := range []struct {
		name  string
		near  bool
		limit time.Duration
	}{
		{"near checks", true, patience},
		{"ordinary checks", false, 500 * time.Millisecond}, // for comparison: the NAT of a takes another port
	} {
		t.Run(test.name, func(t *testing.T) {
			// a, its NAT, two routers, the STUN server, two routers, the NAT of b, b
			spaces := row(t, 7)
			cfg := Config{STUN: []string{spaces[3].echo(t, netip.MustParseAddr("10.3.0.1"))}}
			a, b := spaces[0].listen(t, cfg), spaces[6].listen(t, cfg)
			ca, cb := CredentialsFromSeed(seed(1)), CredentialsFromSeed(seed(2))
			x, ownA := spaces[0].agent(t, a, ca, cb, true)
			y, ownB := spaces[6].agent(t, b, cb, ca, false)
			y.mux.near = test.near
			for _, c := range []struct {
				to  *Agent
				own []Candidate
			}{{y, ownA}, {x, ownB}} {
				if len(reflexive(c.own)) != 1 {
					t.Fatalf("got candidates %v, want one that is reflexive", c.own)
				}
				for _, cand := range c.own {
					if cand.Type != ServerReflexive {
						continue // there are routes to the hosts, which real NATs do not give
					}
					if err := c.to.AddRemote(cand); err != nil {
						t.Fatal(err)
					}
				}
			}
			oy := connect(t.Context(), y)
			<-time.After(30 * time.Millisecond) // the answer travels
			ctx, cancel := context.WithTimeout(t.Context(), test.limit)
			defer cancel()
			o := wait(t, connect(ctx, x))
			if !test.near {
				t.Logf("got %v, %v", o.pair, o.err)
				return
			}
			if o.err != nil {
				t.Fatal(o.err)
			}
			if o = wait(t, oy); o.err != nil {
				t.Error(o.err)
			}
		})
	}
}

// What a spray sends dies before it reaches the other side's NAT, where it could take a port away; only
// between two that spray it goes all the way, and not at first.
func TestSprayDiesOnTheWay(t *testing.T) {
	testtier.Long(t)
	for _, far := range []bool{false, true} {
		spaces := row(t, 7)
		a := spaces[0].listen(t, Config{})
		ca, cb := CredentialsFromSeed(seed(1)), CredentialsFromSeed(seed(2))
		x, _ := spaces[0].agent(t, a, ca, cb, true)
		router := netip.MustParseAddrPort("198.51.100.9:5000") // the NAT of b
		spaces[5].sh(t, "ip addr add 198.51.100.9/32 dev lo")
		for i := range 5 {
			spaces[i].sh(t, fmt.Sprintf("ip route add 198.51.100.9 via 10.%d.0.2", i))
		}
		var c *net.UDPConn
		var err error
		spaces[5].in(func() { c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(router)) })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		spaces[0].in(func() { err = x.Spray(ctx, router, 16, far) })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want %v", err, context.DeadlineExceeded)
		}
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		var b [maxSTUN]byte
		n, _, err := c.ReadFromUDPAddrPort(b[:])
		if got := err == nil && stunmsg.Is(b[:n]); got != far {
			t.Errorf("far %v: a packet came: %v", far, got)
		}
	}
}
