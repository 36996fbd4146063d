package peer

import (
	"strings"
	"testing"

	"adit/internal/punch"
)

// TestVerdicts provokes each verdict on direct paths from what both sides found. internal/acceptance does so with
// networks.
func TestVerdicts(t *testing.T) {
	const host, srflx, relay = punch.HostCandidate, punch.ServerReflexive, punch.Relay
	type types = []punch.CandidateType
	cone, hard := punch.NAT{Mapping: punch.EndpointIndependent}, punch.NAT{Mapping: punch.EndpointDependent}
	for _, c := range []struct {
		name           string
		seen           seen
		reason, advice string // parts
	}{
		{"nothing here", seen{local: types{relay}, remote: types{host}}, "this machine has no address", "connect it"},
		{"nothing there", seen{local: types{host}}, "the other side has no address", "connect the other machine"},
		{"two hard NATs", seen{local: types{host, srflx}, remote: types{host, srflx}, own: hard, peer: hard}, "both NATs change ports", "on either router forward"},
		{"a port is known", seen{local: types{host, srflx}, remote: types{host, srflx}, own: hard, peer: hard, port: 4000}, "both NATs change ports", "forward UDP port 4000 on this side's router"},
		{"nobody heard of STUN", seen{local: types{host, relay}, remote: types{host, host}}, "this side's 1 address and the other side's 2 addresses was answered, and neither knows", "out of both networks"},
		{"a STUN server behind a proxy", seen{local: types{host}, remote: types{host, srflx}, blind: "the STUN server x stands behind a proxy"}, "x stands behind a proxy", "see its clients' addresses"},
		{"UDP blocked here", seen{local: types{host}, remote: types{host, srflx}}, "told this side its public one", "this side's network"},
		{"UDP blocked there", seen{local: types{host, srflx}, remote: types{host}}, "told the other side its public one", "reaches with --stun there"},
		{"a hard NAT here", seen{local: types{host, srflx}, remote: types{host, srflx}, own: hard, peer: cone}, "this side's NAT changes ports", "on either router"},
		{"a hard NAT there", seen{local: types{host, srflx}, remote: types{host, srflx}, own: cone, peer: hard}, "the other side's NAT changes ports", "on either router"},
		{"a firewall", seen{local: types{host, srflx}, remote: types{host, srflx}, own: cone, peer: cone}, "2 addresses was answered", "look for a firewall"},
	} {
		if v := c.seen.direct(); !strings.Contains(v.reason, c.reason) || !strings.Contains(v.advice, c.advice) {
			t.Errorf("%s: got %+v, want %q, %q", c.name, v, c.reason, c.advice)
		}
	}
}
