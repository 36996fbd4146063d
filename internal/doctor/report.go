package doctor

import (
	"net/netip"
	"strings"
	"unicode"

	"adit/internal/portmap"
)

// A Report is what was found. Its JSON form is part of the interface: see docs/doctor.md.
type Report struct {
	Class      Class       `json:"class"`
	Verdict    string      `json:"verdict"`  // in a few words
	Advice     string      `json:"advice"`   // one sentence, or none
	Possible   bool        `json:"possible"` // a tunnel, to some peers at least
	IPv4       Family      `json:"ipv4"`
	IPv6       Family      `json:"ipv6"`
	STUN       []Server    `json:"stun"`
	Carrier    string      `json:"carrier,omitempty"` // why a further NAT is known to stand behind the router
	Ports      PortMapping `json:"port_mapping"`
	Rendezvous *Rendezvous `json:"rendezvous,omitempty"` // nil if none is configured
	Relays     []Relay     `json:"relays"`
	Interfaces []Interface `json:"interfaces"`
	System     System      `json:"system"`
	Seconds    float64     `json:"seconds"` // that all of it took
}

// A Family is what was found with IPv4, or with IPv6.
type Family struct {
	Address   bool             `json:"address"`          // an interface has a usable one
	NAT64     netip.Prefix     `json:"nat64,omitzero"`   // through which IPv4 goes
	UDP       bool             `json:"udp"`              // packets go out, and answers come back
	Public    []netip.AddrPort `json:"public,omitempty"` // what servers saw, each once
	Ways      []WayOut         `json:"ways,omitempty"`   // from other addresses than that of the main route
	NAT       string           `json:"nat,omitempty"`    // its common name
	Mapping   Mapping          `json:"mapping,omitempty"`
	Filtering Filtering        `json:"filtering,omitempty"`
	Preserved bool             `json:"port_preserved"`
	Step      int              `json:"port_step,omitempty"` // from one new mapping's port to the next one's
	Hairpin   *bool            `json:"hairpin,omitempty"`   // nil if it was not tried
	MTU       int              `json:"mtu,omitempty"`       // bytes of an IP packet that arrived whole; 0 if not known
	RTT       float64          `json:"rtt_ms,omitempty"`    // of the quickest server
}

// A Server is a STUN server that was asked.
type Server struct {
	Name   string         `json:"server"` // HOST:PORT as configured
	Addr   netip.AddrPort `json:"addr,omitzero"`
	Mapped netip.AddrPort `json:"mapped,omitzero"`
	RTT    float64        `json:"rtt_ms,omitempty"`
	Error  string         `json:"error,omitempty"`
	Blind  bool           `json:"blind,omitempty"` // it answers, and does not see its clients' addresses
}

// A WayOut is what comes of sending from another address of this machine than the main route has.
type WayOut struct {
	From   netip.Addr `json:"from"`
	Public netip.Addr `json:"public,omitzero"` // where a server saw it; invalid if nothing came back
	Used   bool       `json:"used"`            // it is a way of its own: peers are told of it
}

// A PortMapping is what the router offers.
type PortMapping struct {
	Gateway   netip.Addr         `json:"gateway,omitzero"`
	Protocols []portmap.Protocol `json:"protocols,omitempty"`
	External  netip.AddrPort     `json:"external,omitzero"` // that it mapped for a moment
	Public    bool               `json:"public"`            // which the internet can reach
	Error     string             `json:"error,omitempty"`
}

// A Rendezvous is what became of asking one.
type Rendezvous struct {
	URL   string  `json:"url"`
	OK    bool    `json:"ok"`
	RTT   float64 `json:"rtt_ms,omitempty"` // of a request on a connection that is there
	TLS   string  `json:"tls,omitempty"`    // its version
	Proxy string  `json:"proxy,omitempty"`  // that the environment names for it
	Clock int     `json:"clock_s"`          // seconds that this machine's clock is ahead; 0 within the second
	Error string  `json:"error,omitempty"`
}

// A Relay is a TURN server over one transport.
type Relay struct {
	URL     string         `json:"url"`
	OK      bool           `json:"ok"`
	Relayed netip.AddrPort `json:"relayed,omitzero"`
	Took    float64        `json:"took_ms,omitempty"` // to get an address
	Error   string         `json:"error,omitempty"`
}

// An Interface is one that is up.
type Interface struct {
	Name  string       `json:"name"`
	Addrs []netip.Addr `json:"addrs"`
	Used  bool         `json:"used"` // peers are told its addresses
}

// System is what this machine's own network stack grants.
type System struct {
	ReceiveBuffer int    `json:"receive_buffer"` // bytes, as SO_RCVBUF reads
	DontFragment  bool   `json:"dont_fragment"`
	SendOffload   bool   `json:"udp_segment"`
	RecvOffload   bool   `json:"udp_gro"`
	Error         string `json:"error,omitempty"`
}

// texts returns where the texts are that may hold names of servers and what those said.
func (r *Report) texts() []*string {
	out := []*string{&r.Verdict, &r.Advice, &r.Carrier, &r.Ports.Error, &r.System.Error}
	for i := range r.STUN {
		out = append(out, &r.STUN[i].Name, &r.STUN[i].Error)
	}
	for i := range r.Relays {
		out = append(out, &r.Relays[i].URL, &r.Relays[i].Error)
	}
	if v := r.Rendezvous; v != nil {
		out = append(out, &v.URL, &v.Proxy, &v.Error)
	}
	return out
}

// clean makes all texts fit for a terminal, whoever they are from.
func (r *Report) clean() {
	for _, t := range r.texts() {
		*t = strings.Map(func(c rune) rune {
			if c == unicode.ReplacementChar || !unicode.IsPrint(c) {
				return -1
			}
			return c
		}, *t)
	}
}
