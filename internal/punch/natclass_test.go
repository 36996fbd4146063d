package punch

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"adit/internal/stunmsg"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	own := func(a netip.Addr) bool {
		return a == netip.MustParseAddr("192.168.1.2") || a == netip.MustParseAddr("203.0.113.9")
	}
	see := func(list ...string) (out []mapping) {
		for i := 0; i < len(list); i += 2 {
			out = append(out, mapping{nil, netip.MustParseAddrPort(list[i]), netip.MustParseAddrPort(list[i+1])})
		}
		return out
	}
	for _, c := range []struct {
		name string
		seen []mapping
		want NAT
	}{
		{"nobody answered", nil, NAT{}},
		{"one server", see("1.1.1.1:1", "9.9.9.9:5000"), NAT{Preserved: true}},
		{"one server twice", see("1.1.1.1:1", "9.9.9.9:5001", "1.1.1.1:1", "9.9.9.9:5001"), NAT{}},
		{"no NAT", see("1.1.1.1:1", "203.0.113.9:5000"), NAT{Mapping: Unmapped, Preserved: true}},
		{"own address, another port", see("1.1.1.1:1", "203.0.113.9:5001"), NAT{}},
		{"two ports of a server", see("1.1.1.1:1", "9.9.9.9:5000", "1.1.1.1:2", "9.9.9.9:5000"), NAT{Mapping: EndpointIndependent, Preserved: true}},
		{"another port kept", see("1.1.1.1:1", "9.9.9.9:7", "2.2.2.2:2", "9.9.9.9:7"), NAT{Mapping: EndpointIndependent}},
		{"by port", see("1.1.1.1:1", "9.9.9.9:5000", "1.1.1.1:2", "9.9.9.9:5001"), NAT{Mapping: EndpointDependent, Preserved: true}},
		{"by address", see("1.1.1.1:1", "9.9.9.9:7", "1.1.1.1:2", "9.9.9.9:7", "2.2.2.2:1", "9.9.9.9:8"), NAT{Mapping: EndpointDependent}},
		{"several public addresses", see("1.1.1.1:1", "9.9.9.9:7", "2.2.2.2:1", "9.9.9.8:7"), NAT{Mapping: EndpointDependent}},
	} {
		if got := classify(5000, c.seen, own); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestStep(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		ports []uint16
		want  int
	}{
		{"none", nil, 0},
		{"too few", []uint16{1, 2, 3}, 0},
		{"up", []uint16{40000, 40001, 40002, 40003}, 1},
		{"down", []uint16{40003, 40002, 40001, 40000}, -1},
		{"two by two", []uint16{40000, 40002, 40004, 40006}, 2},
		{"others in between", []uint16{40000, 40001, 40005, 40006, 40007, 40009, 40010, 40011}, 1},
		{"answers lost", []uint16{40000, 0, 40002, 0, 0, 40005, 40006, 0}, 1},
		{"begins again", []uint16{65534, 65535, 1024, 1025, 1026, 1027}, 1},
		{"random", []uint16{40000, 1234, 60000, 5, 33333, 2222, 50000}, 0},
		{"no port twice", []uint16{4000, 4000, 4000, 4000, 4000}, 0},
		{"blocks", []uint16{4000, 4512, 5024, 5536, 6048}, 0},
		{"the ends of the range", []uint16{1, 65535, 1, 65535, 1}, 0},
	} {
		if got := step(c.ports); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

func TestPredict(t *testing.T) {
	t.Parallel()
	last := netip.MustParseAddrPort("9.9.9.9:40000")
	for _, c := range []struct {
		port      uint16
		step, nth int
		want      uint16
	}{
		{40000, 1, 1, 40001},
		{40000, 2, 32, 40064},
		{40000, -1, 5, 39995},
		{65535, 1, 1, 1024},
		{1024, -1, 1, 65535},
		{65530, 64, 512, 33786},
		{5, -64, 512, 31749},
	} {
		n := NAT{Mapping: EndpointDependent, Step: c.step, Last: netip.AddrPortFrom(last.Addr(), c.port)}
		if got := n.Predict(c.nth); got != netip.AddrPortFrom(last.Addr(), c.want) {
			t.Errorf("%d after %d by %d: got %v, want port %d", c.nth, c.port, c.step, got, c.want)
		}
		if !n.Sequential() || n.Random() {
			t.Errorf("%+v is not sequential", n)
		}
	}
	if n := (NAT{Mapping: EndpointDependent}); n.Sequential() || !n.Random() {
		t.Error("a NAT without a pattern is not random")
	}
}

func TestPorts(t *testing.T) {
	t.Parallel()
	next := ports([]uint16{5, 0, 9, 5})
	seen := map[uint16]bool{}
	for i := range maxProbes {
		p := next()
		if i == 0 && p != 5 || i == 1 && p != 9 {
			t.Errorf("try %d: got port %d", i, p)
		}
		if seen[p] || i > 1 && p < 1024 {
			t.Fatalf("try %d: port %d again, or one that is somebody's", i, p)
		}
		seen[p] = true
	}
}

// TestSurvey asks again where too little was heard, and finds a pattern in what a server says.
func TestSurvey(t *testing.T) {
	t.Parallel()
	var next atomic.Uint32
	next.Store(40000)
	seen := map[netip.AddrPort]uint16{} // of the second server's goroutine
	counts := func(id stunmsg.ID, from netip.AddrPort) []byte {
		if seen[from] == 0 {
			seen[from] = uint16(next.Add(2))
		}
		return success(id, netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), seen[from]))
	}
	n := 0
	lossy := func(id stunmsg.ID, from netip.AddrPort) []byte {
		if n++; n <= 2 {
			return nil
		}
		return says("203.0.113.9:7")(id, from)
	}
	h := listen(t, Config{STUN: []string{server(t, counts), server(t, lossy)}})
	gather(t, h)
	if got := h.NAT(t.Context()); got.Mapping != MappingUnknown {
		t.Errorf("one answer tells %+v", got)
	}
	got := h.Survey(t.Context())
	if got.Mapping != EndpointDependent {
		t.Fatalf("got %+v", got)
	}
	if len(h.table.open) != 0 {
		t.Errorf("%d transactions left", len(h.table.open))
	}
	ports, last := h.freshPorts(t.Context(), netip.MustParseAddrPort(h.cfg.STUN[0]))
	if step(ports) != 2 || last.Port() != uint16(next.Load()) {
		t.Errorf("got ports %v, last %v; the server is at %d", ports, last, next.Load())
	}
	dead := listen(t, Config{})
	defer dead.Close()
	if got := listen(t, Config{STUN: []string{loopback(dead).String(), loopback(dead).String()}}).Survey(t.Context()); got != (NAT{}) {
		t.Errorf("nobody answers: got %+v", got)
	}
}
