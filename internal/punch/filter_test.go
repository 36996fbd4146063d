package punch

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestUsableInterface(t *testing.T) {
	t.Parallel()
	up := net.FlagUp | net.FlagBroadcast | net.FlagMulticast
	for _, test := range []struct {
		name     string
		flags    net.Flags
		loopback bool
		want     bool
	}{
		{"eth0", up, false, true},
		{"eth0", 0, false, false},
		{"wlp3s0", up, false, true},
		{"en0", up, false, true},
		{"Ethernet 2", up, false, true},
		{"wg0", up, false, true},
		{"tun0", up, false, true},
		{"veth0", up, false, true},
		{"vethA-1", up, true, true},
		{"lo", net.FlagUp | net.FlagLoopback, false, false},
		{"lo", net.FlagUp | net.FlagLoopback, true, true},
		{"lo", net.FlagLoopback, true, false},
		{"docker0", up, false, false},
		{"docker_gwbridge", up, false, false},
		{"br-0123456789ab", up, false, false},
		{"br-lan", up, false, true},
		{"br-ex", up, false, true},
		{"br0", up, false, true},
		{"virbr0", up, false, false},
		{"cni0", up, false, false},
		{"flannel.1", up, false, false},
		{"cali1234", up, false, false},
		{"lxcbr0", up, false, false},
		{"lxdbr0", up, false, false},
		{"podman0", up, true, false},
		{"vmnet8", up, false, false},
		{"vboxnet0", up, false, false},
	} {
		if got := usableInterface(test.name, test.flags, test.loopback); got != test.want {
			t.Errorf("%s (%v, loopback %v): got %v, want %v", test.name, test.flags, test.loopback, got, test.want)
		}
	}
}

func TestUsableAddr(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		addr           string
		want, loopback bool
	}{
		{"192.0.2.1", true, true},
		{"10.0.0.1", true, true},
		{"100.64.0.1", true, true},
		{"2001:db8::1", true, true},
		{"fd00::1", true, true},
		{"127.0.0.1", false, true},
		{"::1", false, true},
		{"0.0.0.0", false, false},
		{"::", false, false},
		{"169.254.0.1", false, false},
		{"fe80::1", false, false},
		{"224.0.0.251", false, false},
		{"ff02::fb", false, false},
		{"255.255.255.255", false, false},
	} {
		a := netip.MustParseAddr(test.addr)
		if got := usableAddr(a, false); got != test.want {
			t.Errorf("%v: got %v, want %v", a, got, test.want)
		}
		if got := usableAddr(a, true); got != test.loopback {
			t.Errorf("%v with loopback: got %v, want %v", a, got, test.loopback)
		}
	}
	if usableAddr(netip.Addr{}, true) || usableRemote(netip.MustParseAddrPort("192.0.2.1:0"), true) {
		t.Error("no address or no port: got true")
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
