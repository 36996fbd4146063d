package doctor

import (
	"net/netip"
	"strings"
	"testing"

	"adit/internal/portmap"
)

// TestVerdict provokes every verdict and every piece of advice.
func TestVerdict(t *testing.T) {
	t.Parallel()
	up := Family{Address: true, UDP: true}
	nat := func(m Mapping, f Filtering) Family {
		x := up
		x.Mapping, x.Filtering = m, f
		return x
	}
	blocked := Family{Address: true}
	asked := []Server{{Name: "stun.example.org:3478", Error: "no answer"}}
	meets, dead := &Rendezvous{URL: "https://meet.example.org", OK: true}, &Rendezvous{URL: "https://meet.example.org", Error: "refused"}
	relay, noRelay := []Relay{{URL: "turn:a", OK: true}}, []Relay{{URL: "turn:a", Error: "no answer"}}
	pcp := PortMapping{Gateway: netip.MustParseAddr("192.168.1.1"), Protocols: []portmap.Protocol{portmap.PCP}}
	public, private := pcp, pcp
	public.External, public.Public = netip.MustParseAddrPort("20.0.0.1:1"), true
	private.External = netip.MustParseAddrPort("100.64.0.1:1")
	for _, c := range []struct {
		name    string
		r       Report
		class   Class
		verdict string
		advice  string // part of it; "" for none
	}{
		{"no NAT", Report{IPv4: nat(Unmapped, EndpointFiltering)}, Anyone, "direct with anyone", ""},
		{"no NAT, as far as is known", Report{IPv4: nat(Unmapped, FilteringUnknown)}, Anyone, "direct with anyone", ""},
		{"a firewall", Report{IPv4: nat(Unmapped, AddressPortFiltering)}, NotHard, "direct with anyone but hard NATs", "--port"},
		{"a full cone", Report{IPv4: nat(EndpointMapping, EndpointFiltering)}, Anyone, "direct with anyone", ""},
		{"address-restricted", Report{IPv4: nat(EndpointMapping, AddressFiltering)}, Anyone, "direct with anyone", ""},
		{"either", Report{IPv4: nat(EndpointMapping, OpenFiltering)}, Anyone, "direct with anyone", ""},
		{"port-restricted", Report{IPv4: nat(EndpointMapping, AddressPortFiltering)}, NotHard, "direct with anyone but hard NATs", "turn on UPnP or PCP in the router, or give the rendezvous a relay"},
		{"port-restricted with a relay", Report{IPv4: nat(EndpointMapping, AddressPortFiltering), Ports: private, Relays: relay}, NotHard, "direct with anyone but hard NATs", "go by the relay"},
		{"behind a carrier", Report{IPv4: nat(EndpointMapping, AddressPortFiltering), Carrier: "so", Relays: noRelay}, NotHard, "direct with anyone but hard NATs", "for the others give the rendezvous a relay"},
		{"one server", Report{IPv4: nat(MappingUnknown, FilteringUnknown)}, NotHard, "direct with anyone but hard NATs", "turn on"},
		{"symmetric", Report{IPv4: nat(AddressPortMapping, AddressPortFiltering)}, OpenOnly, "direct only with open peers", "turn on UPnP or PCP in the router"},
		{"symmetric, mapped", Report{IPv4: nat(DependentMapping, FilteringUnknown), Ports: public}, Anyone, "direct with anyone", ""},
		{"symmetric, mapped for nothing", Report{IPv4: nat(DependentMapping, FilteringUnknown), Ports: private}, OpenOnly, "direct only with open peers", "a relay"},
		{"no rendezvous", Report{IPv4: nat(EndpointMapping, EndpointFiltering), Rendezvous: dead}, Anyone, "direct with anyone", "meet.example.org; without it, paste"},
		{"IPv6 alone", Report{IPv4: blocked, IPv6: up, STUN: asked}, IPv6Only, "direct only with peers on IPv6", "use a relay"},
		{"IPv6 and a relay", Report{IPv6: up, STUN: asked, Relays: relay}, IPv6Only, "direct only with peers on IPv6", "go by the relay"},
		{"a relay alone", Report{IPv4: blocked, STUN: asked, Rendezvous: meets, Relays: relay}, RelayOnly, "relay only", "let UDP out"},
		{"no network", Report{}, Nothing, "nothing works: no network interface is up", "connect this machine"},
		{"nobody to ask", Report{IPv4: blocked}, Nothing, "nothing works: no STUN server to ask", "--signal URL"},
		{"blocked", Report{IPv4: blocked, STUN: asked}, Nothing, "nothing works: no STUN server answers", "online"},
		{"blocked, no relay", Report{IPv4: blocked, STUN: asked, Rendezvous: meets}, Nothing, "nothing works: UDP is blocked, and there is no relay", "serve --turn"},
		{"blocked, relays dead", Report{IPv4: blocked, STUN: asked, Rendezvous: meets, Relays: noRelay}, Nothing, "nothing works: UDP is blocked, and no relay answers", "over TCP or TLS"},
		{"blocked, relays of flags dead", Report{IPv4: blocked, STUN: asked, Relays: noRelay}, Nothing, "nothing works: UDP is blocked, and no relay answers", "let UDP out"},
		{"offline", Report{IPv4: blocked, STUN: asked, Rendezvous: dead}, Nothing, "nothing works: neither the rendezvous nor a STUN server answers", "online"},
	} {
		c.r.judge()
		if c.r.Class != c.class || c.r.Verdict != c.verdict || !strings.Contains(c.r.Advice, c.advice) || (c.advice == "") != (c.r.Advice == "") {
			t.Errorf("%s: got %s, %q, %q; want %s, %q, %q", c.name, c.r.Class, c.r.Verdict, c.r.Advice, c.class, c.verdict, c.advice)
		}
		if c.r.Possible != (c.class != Nothing) {
			t.Errorf("%s: possible %v", c.name, c.r.Possible)
		}
		if l := c.r.Lines(); l[len(l)-1].Topic != "verdict" || l[len(l)-1].Found != c.verdict || l[len(l)-1].Advice != c.r.Advice {
			t.Errorf("%s: last line %+v", c.name, l[len(l)-1])
		}
	}
}
