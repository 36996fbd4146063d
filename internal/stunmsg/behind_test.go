package stunmsg

import (
	"net/netip"
	"testing"
)

func TestBehind(t *testing.T) {
	for _, c := range []struct {
		server, mapped string
		want           bool
	}{
		{"203.0.113.1", "172.17.0.1", true},
		{"203.0.113.1", "100.64.3.4", true},
		{"203.0.113.1", "127.0.0.1", true},
		{"203.0.113.1", "169.254.1.1", true},
		{"2001:db8::1", "fd00::1", true},
		{"2001:db8::1", "::1", true},
		{"203.0.113.1", "198.51.100.7", false},
		{"192.168.1.1", "192.168.1.7", false}, // a server in the same network
		{"100.64.0.1", "100.64.3.4", false},   // of the carrier
		{"127.0.0.1", "127.0.0.1", false},
	} {
		if got := Behind(netip.MustParseAddr(c.server), netip.MustParseAddr(c.mapped)); got != c.want {
			t.Errorf("a server at %s that sees %s: %v, want %v", c.server, c.mapped, got, c.want)
		}
	}
}
