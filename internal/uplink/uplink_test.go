package uplink

import (
	"net"
	"net/netip"
	"slices"
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
		if got := UsableInterface(test.name, test.flags, test.loopback); got != test.want {
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
		if got := UsableAddr(a, false); got != test.want {
			t.Errorf("%v: got %v, want %v", a, got, test.want)
		}
		if got := UsableAddr(a, true); got != test.loopback {
			t.Errorf("%v with loopback: got %v, want %v", a, got, test.loopback)
		}
	}
	if UsableAddr(netip.Addr{}, true) {
		t.Error("no address or no port: got true")
	}
}

// TestWaysOf: a socket for each network that may have a way out of its own, and few of them.
func TestWaysOf(t *testing.T) {
	prefixes := func(all ...string) (out []netip.Prefix) {
		for _, s := range all {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	var hundreds []string
	for i := range 200 {
		hundreds = append(hundreds, netip.AddrFrom4([4]byte{10, 9, byte(i), 2}).String()+"/24")
	}
	for _, c := range []struct {
		name         string
		nets         []netip.Prefix
		main4, main6 string
		want         []string
		more         int // that many in all
	}{
		{"one interface", prefixes("192.168.1.2/24"), "192.168.1.2", "", nil, 0},
		{"two addresses in one subnet", prefixes("192.168.1.2/24", "192.168.1.3/24"), "192.168.1.2", "", nil, 0},
		{"two interfaces in one subnet", prefixes("192.168.1.2/24", "192.168.1.9/24", "10.0.0.1/8"), "192.168.1.9", "", []string{"10.0.0.1"}, 0},
		{"Wi-Fi beside Ethernet", prefixes("192.168.1.2/24", "10.5.0.7/16"), "192.168.1.2", "", []string{"10.5.0.7"}, 0},
		{"a VPN takes everything", prefixes("192.168.1.2/24", "10.8.0.2/32"), "10.8.0.2", "", []string{"192.168.1.2"}, 0},
		{"no main route", prefixes("192.168.1.2/24"), "", "", []string{"192.168.1.2"}, 0},
		{"temporary IPv6 addresses", prefixes("2001:db8::1/64", "2001:db8::ffff/64"), "", "2001:db8::ffff", nil, 0},
		{"two IPv6 prefixes", prefixes("2001:db8::1/64", "2001:db8:1::1/64"), "", "2001:db8::1", []string{"2001:db8:1::1"}, 0},
		{"ULA beside GUA", prefixes("2001:db8::1/64", "fd00::1/64"), "", "2001:db8::1", nil, 0},
		{"loopback", prefixes("127.0.0.1/8", "::1/128"), "", "", nil, 0},
		{"hundreds", prefixes(hundreds...), "10.9.0.2", "", nil, 199},
	} {
		got := Ways(c.nets, func(v6 bool) netip.Addr {
			text := c.main4
			if v6 {
				text = c.main6
			}
			a, _ := netip.ParseAddr(text)
			return a
		})
		var text []string
		for _, a := range got {
			text = append(text, a.String())
		}
		if c.more == 0 && !slices.Equal(text, c.want) || c.more > 0 && len(got) != c.more {
			t.Errorf("%s: %v, want %v", c.name, text, c.want)
		}
	}
}
