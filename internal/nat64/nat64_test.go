package nat64

import (
	"net/netip"
	"testing"

	"adit/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// The examples of RFC 6052 §2.4.
func TestSynthesize(t *testing.T) {
	v4 := netip.MustParseAddr("192.0.2.33")
	for prefix, want := range map[string]string{
		"2001:db8::/32":             "2001:db8:c000:221::",
		"2001:db8:100::/40":         "2001:db8:1c0:2:21::",
		"2001:db8:122::/48":         "2001:db8:122:c000:2:2100::",
		"2001:db8:122:300::/56":     "2001:db8:122:3c0:0:221::",
		"2001:db8:122:344::/64":     "2001:db8:122:344:c0:2:2100::",
		"2001:db8:122:344::/96":     "2001:db8:122:344::192.0.2.33",
		"64:ff9b::/96":              "64:ff9b::192.0.2.33",
		"2001:db8:64:ff9b:0:1::/96": "2001:db8:64:ff9b:0:1:192.0.2.33",
	} {
		p := netip.MustParsePrefix(prefix)
		got := Synthesize(p, v4)
		if got != netip.MustParseAddr(want) {
			t.Errorf("%v: got %v, want %v", p, got, want)
		}
		if back, ok := Extract(p, got); !ok || back != v4 {
			t.Errorf("%v: back to %v, %v", p, back, ok)
		}
		if _, ok := Extract(p, netip.MustParseAddr("2620:fe::fe")); ok {
			t.Errorf("%v: a foreign address is behind it", p)
		}
		for _, known := range wellKnown {
			if found, ok := prefixOf(Synthesize(p, known)); !ok || found != p {
				t.Errorf("prefix of %v: got %v, %v, want %v", Synthesize(p, known), found, ok, p)
			}
		}
	}
	if a := Synthesize(netip.MustParsePrefix("64:ff9b::/96"), netip.MustParseAddr("::1")); a.IsValid() {
		t.Errorf("IPv6 became %v", a)
	}
}

// A resolver that lies gets no prefix of addresses that mean this machine or this link.
func TestPrefixOfHostile(t *testing.T) {
	for _, s := range []string{"::ffff:192.0.0.170", "::192.0.0.1", "fe80::192.0.0.170", "ff02::192.0.0.170", "::1", "2001:db8::1", "192.0.0.170"} {
		if p, ok := prefixOf(netip.MustParseAddr(s)); ok {
			t.Errorf("%s: got prefix %v", s, p)
		}
	}
}

func FuzzPrefix(f *testing.F) {
	f.Add([]byte("\x00\x64\xff\x9b\x00\x00\x00\x00\x00\x00\x00\x00\xc0\x00\x00\xaa"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		p, ok := prefixOf(a)
		if !ok {
			return
		}
		v4, ok := Extract(p, a)
		if !ok || Synthesize(p, v4) != a {
			t.Errorf("%v: prefix %v, back to %v", a, p, v4)
		}
	})
}
