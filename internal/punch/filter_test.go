package punch

import (
	"net/netip"
	"strings"
	"testing"
)

func TestUsableRemote(t *testing.T) {
	t.Parallel()
	if usableRemote(netip.MustParseAddrPort("192.0.2.1:0"), true) || !usableRemote(netip.MustParseAddrPort("192.0.2.1:1"), true) {
		t.Error("port 0 is none")
	}
}

func TestPriority(t *testing.T) {
	t.Parallel()
	last := uint32(1<<32 - 1)
	for _, typ := range []CandidateType{HostCandidate, PeerReflexive, ServerReflexive, Relay} {
		for i := range 12 {
			for _, v6 := range []bool{true, false} {
				p := priority(typ, v6, i)
				if p >= last || p == 0 || p&255 != 255 {
					t.Errorf("%v %d, IPv6 %v: got %d after %d", typ, i, v6, p, last)
				}
				last = p
			}
		}
	}
}

func TestCandidateString(t *testing.T) {
	t.Parallel()
	a := netip.MustParseAddrPort("192.0.2.1:4000")
	for want, c := range map[string]Candidate{
		"host 192.0.2.1:4000":      {Type: HostCandidate, Addr: a},
		"srflx 192.0.2.1:4000":     {Type: ServerReflexive, Addr: a},
		"prflx 192.0.2.1:4000":     {Type: PeerReflexive, Addr: a},
		"relay [2001:db8::1]:1":    {Type: Relay, Addr: netip.MustParseAddrPort("[2001:db8::1]:1")},
		"type(7) invalid AddrPort": {Type: 7},
	} {
		if got := c.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestCredentialsFromSeed(t *testing.T) {
	t.Parallel()
	c := CredentialsFromSeed(seed(1))
	if c != CredentialsFromSeed(seed(1)) || c == CredentialsFromSeed(seed(2)) {
		t.Error("not a function of the seed")
	}
	if len(c.Ufrag) != ufragChars || len(c.Pwd) != pwdChars || strings.Trim(c.Ufrag+c.Pwd, iceChars) != "" {
		t.Errorf("got %q", c)
	}
	if err := checkCredentials(c); err != nil {
		t.Error(err)
	}
}

func TestHostCandidates(t *testing.T) {
	t.Parallel()
	h := listen(t, Config{})
	cs := h.hostCandidates()
	if len(cs) == 0 || len(cs) > maxHostCandidates {
		t.Fatalf("got %v", cs)
	}
	loop := false
	for i, c := range cs {
		loop = loop || c.Addr == loopback(h)
		if i > 0 && c.Priority >= cs[i-1].Priority {
			t.Errorf("%v does not come before %v", cs[i-1], c)
		}
	}
	if !loop {
		t.Errorf("no loopback address among %v", cs)
	}
}
