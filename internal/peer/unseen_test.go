package peer

import (
	"net/netip"
	"testing"

	"adit/internal/punch"
)

func TestReachOf(t *testing.T) {
	t.Parallel()
	host := func(s string) punch.Candidate {
		return punch.Candidate{Type: punch.HostCandidate, Addr: netip.MustParseAddrPort(s)}
	}
	mapped := punch.Candidate{Type: punch.ServerReflexive, Addr: netip.MustParseAddrPort("198.51.100.7:9")}
	for _, test := range []struct {
		name string
		in   []punch.Candidate
		want extent
	}{
		{"nothing", nil, reachNetwork},
		{"private", []punch.Candidate{host("192.168.1.7:1"), host("[fd00::1]:1"), host("[fe80::1]:1")}, reachNetwork},
		{"loopback", []punch.Candidate{host("127.0.0.1:1")}, reachNetwork},
		{"behind a provider's NAT", []punch.Candidate{host("100.72.0.1:1")}, reachNetwork},
		{"IPv6", []punch.Candidate{host("10.0.0.1:1"), host("[2001:db8::1]:1")}, reachIPv6},
		{"public", []punch.Candidate{host("[2001:db8::1]:1"), host("203.0.113.9:1")}, reachWorld},
		{"seen by a server", []punch.Candidate{host("10.0.0.1:1"), mapped}, reachWorld},
	} {
		if got := reachOf(test.in); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}
