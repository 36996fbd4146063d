package doctor

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

func TestRedactText(t *testing.T) {
	t.Parallel()
	x := (&Report{}).Redact()
	for _, c := range []struct{ in, want string }{
		{"192.0.2.7:4000 and 192.0.2.7", "public-1:4000 and public-1"},
		{"192.168.1.2, 100.64.0.1.", "private-1, shared-1."},
		{"turn:198.51.100.9:3478?transport=udp", "turn:public-2:3478?transport=udp"},
		{"[2001:db8::7]:53", "[public6-1]:53"},
		{"fe80::1%eth0 fd00::1", "link-local6-1 private6-1"},
		{"http://[::1]:8080 127.0.0.1:80", "http://[::1]:8080 127.0.0.1:80"},
		{`{"time":"2026-01-05T10:00:00.1+01:00","rtt_ms":12.5}`, `{"time":"2026-01-05T10:00:00.1+01:00","rtt_ms":12.5}`},
		{"dial tcp 203.0.113.5:443: connect: connection refused", "dial tcp public-3:443: connect: connection refused"},
		{"adit 1.2.3 face added 1e5", "adit 1.2.3 face added 1e5"},
	} {
		if got := x.Text(c.in); got != c.want {
			t.Errorf("%q: got %q, want %q", c.in, got, c.want)
		}
	}
}

// TestRedact: nothing that names a machine is left in a report.
func TestRedact(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddrPort("203.0.113.5:4000")
	r := &Report{
		IPv4: Family{UDP: true, Public: []netip.AddrPort{addr}},
		STUN: []Server{
			{Name: "stun.secret.example:3478", Addr: addr, Mapped: addr},
			{Name: "hidden:3478", Error: "lookup hidden on 10.1.2.3:53: no such host"},
		},
		Carrier:    "a router on the way has 100.64.3.2, an address of a carrier's NAT",
		Ports:      PortMapping{Gateway: netip.MustParseAddr("192.168.7.1"), External: addr, Error: "reach the gateway 192.168.7.1: no route"},
		Rendezvous: &Rendezvous{URL: "https://meet.secret.example/path", Proxy: "http://proxy.secret.example:3128", Error: "ask https://meet.secret.example for STUN servers: down"},
		Relays:     []Relay{{URL: "turns:relay.secret.example:443?transport=tcp", Error: "lookup relay.secret.example: no such host"}, {URL: "turn:[2001:db8::5]:3478"}},
		Interfaces: []Interface{{Name: "eth0", Addrs: []netip.Addr{netip.MustParseAddr("192.168.7.2"), netip.MustParseAddr("2001:db8::9")}, Used: true}},
	}
	r.judge()
	x := r.Redact()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	text := x.Text(string(b))
	for _, l := range r.Lines() {
		text += "\n" + x.Text(l.Topic+" "+l.Found+" "+l.Advice)
	}
	for _, s := range []string{"secret", "hidden", "203.0.113", "10.1.2.3", "100.64.3", "192.168.7", "2001:db8"} {
		if strings.Contains(text, s) {
			t.Errorf("%q stands in %s", s, text)
		}
	}
	if !json.Valid([]byte(x.Text(string(b)))) {
		t.Errorf("not JSON any more: %s", x.Text(string(b)))
	}
}
