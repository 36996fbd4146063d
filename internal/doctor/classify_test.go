package doctor

import (
	"net/netip"
	"testing"
	"time"
)

func TestMapping(t *testing.T) {
	t.Parallel()
	own := func(a netip.Addr) bool { return a == netip.MustParseAddr("203.0.113.9") }
	see := func(list ...string) (out []observation) {
		for i := 0; i < len(list); i += 2 {
			out = append(out, observation{netip.MustParseAddrPort(list[i]), netip.MustParseAddrPort(list[i+1])})
		}
		return out
	}
	for _, c := range []struct {
		name string
		seen []observation
		want Mapping
	}{
		{"nobody answered", nil, MappingUnknown},
		{"one server", see("1.1.1.1:1", "9.9.9.9:5000"), MappingUnknown},
		{"one server twice", see("1.1.1.1:1", "9.9.9.9:5000", "1.1.1.1:1", "9.9.9.9:5001"), MappingUnknown},
		{"no NAT", see("1.1.1.1:1", "203.0.113.9:5000"), Unmapped},
		{"own address, another port", see("1.1.1.1:1", "203.0.113.9:5001", "1.1.1.1:2", "203.0.113.9:5001"), EndpointMapping},
		{"two ports", see("1.1.1.1:1", "9.9.9.9:7", "1.1.1.1:2", "9.9.9.9:7"), EndpointMapping},
		{"two addresses", see("1.1.1.1:1", "9.9.9.9:7", "2.2.2.2:1", "9.9.9.9:7"), EndpointMapping},
		{"by port", see("1.1.1.1:1", "9.9.9.9:7", "1.1.1.1:2", "9.9.9.9:8"), AddressPortMapping},
		{"by address", see("1.1.1.1:1", "9.9.9.9:7", "1.1.1.1:2", "9.9.9.9:7", "2.2.2.2:1", "9.9.9.9:8"), AddressMapping},
		{"by address, or by port too", see("1.1.1.1:1", "9.9.9.9:7", "2.2.2.2:1", "9.9.9.9:8"), DependentMapping},
		{"several public addresses", see("1.1.1.1:1", "9.9.9.9:7", "2.2.2.2:1", "9.9.9.8:7"), DependentMapping},
		{"one of them not the own", see("1.1.1.1:1", "203.0.113.9:5000", "2.2.2.2:1", "9.9.9.9:5000"), DependentMapping},
	} {
		if got := mappingOf(5000, c.seen, own); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestFiltering(t *testing.T) {
	t.Parallel()
	cannot := filterTest{}
	for _, c := range []struct {
		name  string
		tests []filterTest
		want  Filtering
	}{
		{"no server", nil, FilteringUnknown},
		{"none that can", []filterTest{cannot, cannot}, FilteringUnknown},
		{"all come", []filterTest{{true, true, true, true}}, EndpointFiltering},
		{"from the address", []filterTest{{true, true, true, false}}, AddressFiltering},
		{"none", []filterTest{{true, true, false, false}}, AddressPortFiltering},
		{"one address, comes", []filterTest{{true, false, true, false}}, OpenFiltering},
		{"one address, none", []filterTest{cannot, {true, false, false, false}}, AddressPortFiltering},
		{"the better test counts", []filterTest{{true, false, true, false}, {true, true, true, false}}, AddressFiltering},
		{"the better test counts, first", []filterTest{{true, true, true, false}, {true, false, true, false}}, AddressFiltering},
		{"a lost answer", []filterTest{{true, true, false, false}, {true, true, true, true}}, EndpointFiltering},
	} {
		if got := filteringOf(c.tests); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		m    Mapping
		f    Filtering
		step int
		want string
	}{
		{MappingUnknown, FilteringUnknown, 0, ""},
		{Unmapped, FilteringUnknown, 0, "none"},
		{Unmapped, EndpointFiltering, 0, "none"},
		{Unmapped, AddressPortFiltering, 0, "none, behind a firewall"},
		{EndpointMapping, FilteringUnknown, 0, "cone"},
		{EndpointMapping, EndpointFiltering, 0, "full cone"},
		{EndpointMapping, AddressFiltering, 0, "address-restricted"},
		{EndpointMapping, OpenFiltering, 0, "full cone or address-restricted"},
		{EndpointMapping, AddressPortFiltering, 0, "port-restricted"},
		{AddressMapping, AddressPortFiltering, 0, "symmetric"},
		{DependentMapping, FilteringUnknown, 1, "symmetric, sequential"},
	} {
		if got := natName(c.m, c.f, c.step); got != c.want {
			t.Errorf("%s, %s, %d: got %q, want %q", c.m, c.f, c.step, got, c.want)
		}
	}
}

func TestClock(t *testing.T) {
	t.Parallel()
	date := time.Date(2026, 1, 5, 10, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return date.Add(time.Duration(ms) * time.Millisecond) }
	for _, c := range []struct{ began, end, want int }{
		{100, 200, 0},
		{-50, 50, 0},
		{900, 1100, 0},
		{1500, 1600, 1},
		{61000, 61100, 60},
		{-100, -50, -1},
		{-90000, -89500, -90},
	} {
		if got := clockAhead(at(c.began), at(c.end), date); got != c.want {
			t.Errorf("from %d to %d ms: got %d s, want %d", c.began, c.end, got, c.want)
		}
	}
}
