package doctor

import (
	"net/netip"
)

// A Mapping says what the port that a NAT gives to a socket depends on, and a Filtering who may send to
// it (RFC 4787 sections 4.1 and 5). The texts are part of the JSON form.
type (
	Mapping   string
	Filtering string
)

const (
	MappingUnknown     Mapping = ""
	Unmapped           Mapping = "none"                       // no NAT
	EndpointMapping    Mapping = "endpoint-independent"       // one port for all destinations
	AddressMapping     Mapping = "address-dependent"          // one for each address
	AddressPortMapping Mapping = "address-and-port-dependent" // one for each port of an address
	DependentMapping   Mapping = "endpoint-dependent"         // one of the last two

	FilteringUnknown     Filtering = ""
	EndpointFiltering    Filtering = "endpoint-independent"       // everybody
	AddressFiltering     Filtering = "address-dependent"          // addresses that were sent to, from any port
	AddressPortFiltering Filtering = "address-and-port-dependent" // addresses and ports that were sent to
	OpenFiltering        Filtering = "not-port-dependent"         // one of the first two
)

// Dependent reports whether each destination sees another port.
func (m Mapping) Dependent() bool {
	return m == AddressMapping || m == AddressPortMapping || m == DependentMapping
}

// Open reports whether packets come in from ports that were not sent to.
func (f Filtering) Open() bool {
	return f == EndpointFiltering || f == AddressFiltering || f == OpenFiltering
}

// An observation is what one server saw of a socket.
type observation struct{ server, mapped netip.AddrPort }

// mappingOf tells the kind of mapping from what servers saw of one socket with that port. own says
// whether an address is this machine's.
func mappingOf(port uint16, seen []observation, own func(netip.Addr) bool) Mapping {
	if len(seen) == 0 {
		return MappingUnknown
	}
	var sameAddr, otherAddr bool // two ports of one address were asked, two addresses were
	var byPort, byAddr bool      // and they saw different mappings
	unmapped := true
	for i, a := range seen {
		unmapped = unmapped && own(a.mapped.Addr()) && a.mapped.Port() == port
		for _, b := range seen[:i] {
			switch differ := a.mapped != b.mapped; {
			case a.server == b.server:
			case a.server.Addr() == b.server.Addr():
				sameAddr, byPort = true, byPort || differ
			default:
				otherAddr, byAddr = true, byAddr || differ
			}
		}
	}
	switch {
	case unmapped:
		return Unmapped
	case byPort:
		return AddressPortMapping
	case byAddr && sameAddr:
		return AddressMapping
	case byAddr:
		return DependentMapping
	case sameAddr || otherAddr:
		return EndpointMapping
	}
	return MappingUnknown
}

// A filterTest is what came of asking one server for answers from elsewhere.
type filterTest struct {
	supported    bool // it answers from another port
	hasAddr      bool // and from another address
	port, around bool // the answer from its other port came in; that from its other address did
}

// filteringOf joins the tests of several servers. One that came in proves more than one that got lost.
func filteringOf(tests []filterTest) Filtering {
	f := FilteringUnknown
	for _, t := range tests {
		switch {
		case !t.supported:
		case t.around:
			return EndpointFiltering
		case t.port && t.hasAddr:
			f = AddressFiltering
		case t.port && f != AddressFiltering:
			f = OpenFiltering
		case !t.port && f == FilteringUnknown:
			f = AddressPortFiltering
		}
	}
	return f
}

// natName names a NAT in the words that people search for (RFC 3489 section 5).
func natName(m Mapping, f Filtering, step int) string {
	switch {
	case m.Dependent() && step != 0:
		return "symmetric, sequential"
	case m.Dependent():
		return "symmetric"
	case m == Unmapped && f == AddressPortFiltering:
		return "none, behind a firewall"
	case m == Unmapped:
		return "none"
	case m != EndpointMapping:
		return ""
	}
	switch f {
	case EndpointFiltering:
		return "full cone"
	case AddressFiltering:
		return "address-restricted"
	case AddressPortFiltering:
		return "port-restricted"
	case OpenFiltering:
		return "full cone or address-restricted"
	}
	return "cone"
}
