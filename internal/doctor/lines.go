package doctor

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// goodBuffer is what a path of 1 Gbit/s and 20 ms keeps in flight.
const goodBuffer = 2 << 20

// Lines returns the findings in words, the verdict last.
func (r *Report) Lines() []Line {
	var out []Line
	add := func(level Level, topic, found, advice string) {
		out = append(out, Line{level, topic, found, advice})
	}
	out = append(out, r.interfaceLines()...)
	for i, f := range []*Family{&r.IPv4, &r.IPv6} {
		name := [2]string{"IPv4", "IPv6"}[i]
		switch {
		case f.UDP && f.NAT64.IsValid():
			add(Good, "UDP over "+name, "yes, through the network's NAT64: "+millis(f.RTT)+" to the nearest server", "")
		case f.UDP:
			add(Good, "UDP over "+name, "yes, "+millis(f.RTT)+" to the nearest server", "")
		case !f.Address && i == 1:
			add(Plain, "UDP over "+name, "no address", "")
		case !f.Address:
			add(Poor, "UDP over "+name, "no address", "")
		case i == 1 || len(r.STUN) == 0:
			add(Plain, "UDP over "+name, "not known: no server to ask", "")
		default:
			add(Bad, "UDP over "+name, "no answer from "+count(len(r.STUN), "server"), "let UDP out of this network")
		}
		if f.UDP {
			add(Plain, "public "+name, joined(f.Public), "")
		}
	}
	// IPv6 without an answer: only if a server has such an address is that a failure.
	for i := range out {
		if out[i].Topic == "UDP over IPv6" && !r.IPv6.UDP && r.IPv6.Address && r.asked6() {
			out[i].Found, out[i].Level, out[i].Advice = "no answer", Poor, "let UDP out over IPv6 too"
		}
	}
	if r.IPv4.UDP {
		out = append(out, r.natLines()...)
	}
	out = append(out, r.portLine())
	if r.Rendezvous != nil {
		out = append(out, r.rendezvousLines()...)
	}
	for _, s := range r.STUN {
		if s.Error != "" {
			advice := ""
			if s.Blind {
				advice = "have it see its clients' addresses (a container: its host's own network), or give another with --stun"
			}
			add(Poor, "STUN", s.Name+": "+s.Error, advice)
		}
	}
	for _, x := range r.Relays {
		if x.OK {
			add(Good, "relay", fmt.Sprintf("%s: %v after %s", x.URL, x.Relayed, millis(x.Took)), "")
		} else {
			add(Poor, "relay", x.URL+": "+x.Error, "")
		}
	}
	if len(r.Relays) == 0 {
		add(Plain, "relay", "none", "")
	}
	out = append(out, r.systemLines()...)
	last := Line{Good, "verdict", r.Verdict, r.Advice}
	switch r.Class {
	case Anyone:
	case Nothing:
		last.Level = Bad
	default:
		last.Level = Poor
	}
	if r.Class == NotHard {
		last.Level = Good
	}
	return append(out, last)
}

func (r *Report) asked6() bool {
	for _, s := range r.STUN {
		if s.Addr.Addr().Is6() {
			return true
		}
	}
	return false
}

func (r *Report) interfaceLines() []Line {
	var used, not []string
	for _, i := range r.Interfaces {
		text := make([]string, len(i.Addrs))
		for k, a := range i.Addrs {
			text[k] = a.String()
		}
		if i.Used {
			used = append(used, i.Name+" "+strings.Join(text, " "))
		} else {
			not = append(not, i.Name)
		}
	}
	if len(used) == 0 {
		return []Line{{Bad, "interfaces", "none is up", "connect this machine to a network"}}
	}
	found := strings.Join(used, ", ")
	if len(not) > 0 {
		found += " (not used: " + strings.Join(not, ", ") + ")"
	}
	return []Line{{Plain, "interfaces", found, ""}}
}

func (r *Report) natLines() []Line {
	var out []Line
	f := &r.IPv4
	name := f.NAT
	if name == "" {
		name = "not known"
	}
	nat := Line{Good, "NAT", name, ""}
	switch {
	case f.Mapping == MappingUnknown:
		nat.Level, nat.Advice = Plain, "give a second server with --stun"
	case f.Mapping.Dependent():
		nat.Level = Poor
		nat.Found += ": each destination sees another port"
	case f.Filtering == AddressPortFiltering:
		nat.Found += ": only who was sent to may send"
	case f.Filtering == AddressFiltering:
		nat.Found += ": only who was sent to may send, from any port"
	case f.Filtering == EndpointFiltering && f.Mapping != Unmapped:
		nat.Found += ": anybody may send"
	}
	out = append(out, nat)
	if f.Mapping != Unmapped {
		port := "changed"
		if f.Preserved {
			port = "kept"
		}
		if f.Step != 0 {
			port += fmt.Sprintf(", counted in steps of %d", f.Step)
		}
		out = append(out, Line{Plain, "port", port, ""})
		if f.Hairpin != nil {
			out = append(out, Line{Plain, "hairpin", yes(*f.Hairpin), ""})
		}
		carrier := Line{Plain, "further NAT", "none seen", ""}
		if r.Carrier != "" {
			carrier = Line{Poor, "further NAT", "yes: " + r.Carrier, "ask the provider for a public address, or use IPv6"}
		}
		out = append(out, carrier)
	}
	for _, f := range []*Family{&r.IPv4, &r.IPv6} {
		for _, o := range f.Ways {
			found := fmt.Sprintf("from %v: leads nowhere, not used", o.From)
			switch {
			case o.Used:
				found = fmt.Sprintf("from %v: seen as %v, used", o.From, o.Public)
			case o.Public.IsValid():
				found = fmt.Sprintf("from %v: seen as %v too, not used", o.From, o.Public)
			}
			out = append(out, Line{Plain, "another way", found, ""})
		}
	}
	for i, f := range []*Family{&r.IPv4, &r.IPv6} {
		if f.MTU == 0 {
			continue
		}
		l := Line{Good, "MTU " + [2]string{"IPv4", "IPv6"}[i], strconv.Itoa(f.MTU) + " bytes to the server", ""}
		switch {
		case f.MTU < narrowMTU:
			l.Level = Poor
			l.Found = fmt.Sprintf("%d bytes to the server: larger packets get lost without a word", f.MTU)
			l.Advice = "other programs hang here: set the MTU of this network's interface or router to that, or let ICMP's \"fragmentation needed\" pass"
		case f.MTU < sizes[0]:
			l.Level = Plain
		}
		out = append(out, l)
	}
	return out
}

// narrowMTU is what packets have at least that programs send without asking: IPv6's least MTU.
const narrowMTU = 1280

func (r *Report) portLine() Line {
	p := &r.Ports
	l := Line{Topic: "port mapping"}
	if len(p.Protocols) == 0 {
		l.Found = p.Error
		if l.Found == "" {
			l.Found = "none"
		}
		if r.IPv4.Mapping.Dependent() && p.Gateway.IsValid() {
			l.Level, l.Advice = Poor, "turn on UPnP or PCP in the router"
		}
		return l
	}
	text := make([]string, len(p.Protocols))
	for i, x := range p.Protocols {
		text[i] = string(x)
	}
	l.Found = strings.Join(text, ", ")
	switch {
	case p.Public:
		l.Level = Good
		l.Found += fmt.Sprintf(": the router mapped %v", p.External)
	case p.External.IsValid():
		l.Level = Poor
		l.Found += fmt.Sprintf(": the router mapped %v, which is not public", p.External)
	default:
		l.Level = Poor
		l.Found += ": " + p.Error
		l.Advice = "see what the router allows this machine to map"
	}
	return l
}

func (r *Report) rendezvousLines() []Line {
	v := r.Rendezvous
	if !v.OK {
		l := Line{Bad, "rendezvous", v.Error, "see whether it runs at " + v.URL}
		if v.Proxy != "" {
			l.Found += "; by the proxy " + v.Proxy
			l.Advice += ", and whether the proxy lets it through"
		}
		return []Line{l}
	}
	found := v.URL + ", " + millis(v.RTT)
	if v.TLS != "" {
		found += ", " + v.TLS
	}
	if v.Proxy != "" {
		found += ", by the proxy " + v.Proxy
	}
	out := []Line{{Good, "rendezvous", found, ""}}
	const tolerable = 60 // seconds
	switch {
	case v.Clock > tolerable:
		out = append(out, Line{Poor, "clock", fmt.Sprintf("%d s ahead of the rendezvous", v.Clock), "set it: certificates depend on it"})
	case v.Clock < -tolerable:
		out = append(out, Line{Poor, "clock", fmt.Sprintf("%d s behind the rendezvous", -v.Clock), "set it: certificates depend on it"})
	}
	return out
}

func (r *Report) systemLines() []Line {
	s := &r.System
	if s.Error != "" {
		return []Line{{Bad, "sockets", s.Error, ""}}
	}
	buffer := Line{Good, "buffer", kib(s.ReceiveBuffer) + " for what arrives", ""}
	if s.ReceiveBuffer < goodBuffer {
		buffer.Level, buffer.Advice = Poor, "allow 8 MiB for fast paths: on Linux sysctl net.core.rmem_max=8388608"
	}
	var has []string
	if s.SendOffload {
		has = append(has, "UDP_SEGMENT")
	}
	if s.RecvOffload {
		has = append(has, "UDP_GRO")
	}
	offload := Line{Plain, "offload", "none", ""}
	if len(has) > 0 {
		offload = Line{Good, "offload", strings.Join(has, ", "), ""}
	}
	return []Line{buffer, offload}
}

func kib(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func joined(all []netip.AddrPort) string {
	text := make([]string, len(all))
	for i, a := range all {
		text[i] = a.String()
	}
	return strings.Join(text, ", ")
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
