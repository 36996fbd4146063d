package doctor

import (
	"fmt"
	"strings"
)

// A Class is who can reach this machine, in one word. The texts are part of the JSON form.
type Class string

const (
	Anyone    Class = "anyone"     // direct paths with everybody who has UDP
	NotHard   Class = "not-hard"   // with everybody but those whose NAT gives each destination another port
	OpenOnly  Class = "open-only"  // with those only that let in who they have not sent to
	IPv6Only  Class = "ipv6-only"  // with those only that have IPv6
	RelayOnly Class = "relay-only" // no UDP, but a relay
	Nothing   Class = "nothing"    // neither
)

// judge draws the conclusion from the rest of the report.
func (r *Report) judge() {
	r.Class = r.class()
	relayed := r.relayed()
	switch r.Class {
	case Anyone:
		r.Verdict = "direct with anyone"
	case NotHard:
		r.Verdict = "direct with anyone but hard NATs"
	case OpenOnly:
		r.Verdict = "direct only with open peers"
	case IPv6Only:
		r.Verdict = "direct only with peers on IPv6"
	case RelayOnly:
		r.Verdict = "relay only"
	default:
		r.Verdict = "nothing works: " + r.obstacle()
	}
	r.Possible = r.Class != Nothing
	r.Advice = r.advice(relayed)
}

func (r *Report) class() Class {
	v4 := &r.IPv4
	open := v4.UDP && (v4.Mapping == Unmapped || v4.Mapping == EndpointMapping)
	switch {
	case v4.UDP && r.Ports.Public:
		return Anyone
	case open && (v4.Filtering.Open() || v4.Mapping == Unmapped && v4.Filtering == FilteringUnknown):
		return Anyone
	case open:
		return NotHard
	case v4.UDP && v4.Mapping.Dependent():
		return OpenOnly
	case v4.UDP: // one server says nothing of the mapping; most NATs keep the port
		return NotHard
	case r.IPv6.UDP:
		return IPv6Only
	case r.relayed():
		return RelayOnly
	}
	return Nothing
}

// relayed reports whether a relay gave an address.
func (r *Report) relayed() bool {
	for _, x := range r.Relays {
		if x.OK {
			return true
		}
	}
	return false
}

// obstacle says why there is neither a direct path nor a relay.
func (r *Report) obstacle() string {
	switch {
	case !r.IPv4.Address && !r.IPv6.Address:
		return "no network interface is up"
	case len(r.STUN) == 0:
		return "no STUN server to ask"
	case r.Rendezvous != nil && r.Rendezvous.OK && len(r.Relays) == 0:
		return "UDP is blocked, and there is no relay"
	case r.Rendezvous != nil && r.Rendezvous.OK:
		return "UDP is blocked, and no relay answers"
	case r.Rendezvous != nil:
		return "neither the rendezvous nor a STUN server answers"
	case len(r.Relays) > 0:
		return "UDP is blocked, and no relay answers"
	}
	return "no STUN server answers"
}

// advice is what would help most, in one sentence, or "".
func (r *Report) advice(relayed bool) string {
	const relay = `"adit serve --turn" on a public host`
	if v := r.Rendezvous; v != nil && !v.OK && (r.IPv4.UDP || r.IPv6.UDP) {
		return "see whether the rendezvous runs at " + v.URL + "; without it, paste lines"
	}
	switch r.Class {
	case Anyone:
		return ""
	case NotHard, OpenOnly:
		var ways []string
		if len(r.Ports.Protocols) == 0 && r.Carrier == "" && r.IPv4.Mapping != Unmapped {
			ways = append(ways, "turn on UPnP or PCP in the router")
		}
		if r.IPv4.Mapping == Unmapped {
			ways = append(ways, "let UDP in at a port and give that as --port")
		}
		if !relayed {
			ways = append(ways, "give the rendezvous a relay: "+relay)
		}
		if len(ways) == 0 {
			return "other peers go by the relay"
		}
		return "for the others " + strings.Join(ways, ", or ")
	case IPv6Only:
		if relayed {
			return "other peers go by the relay"
		}
		return "for others use a relay: " + relay
	case RelayOnly:
		return "let UDP out of this network, and paths can be direct"
	}
	switch {
	case !r.IPv4.Address && !r.IPv6.Address:
		return "connect this machine to a network"
	case len(r.STUN) == 0:
		return "give --signal URL or --stun HOST:PORT"
	case r.Rendezvous != nil && r.Rendezvous.OK:
		return "let UDP out of this network, or use a relay over TCP or TLS: " + relay
	case r.Rendezvous != nil:
		return "see whether this machine is online, and whether a firewall lets UDP and the rendezvous' port out"
	}
	return "see whether this machine is online, and let UDP out of this network"
}

// A Level says how good a finding is.
type Level int

const (
	Plain Level = iota // neither good nor bad
	Good
	Poor // it works less well than it could
	Bad
)

// A Line is one finding in words.
type Line struct {
	Level  Level
	Topic  string
	Found  string
	Advice string // what to do, if anything is to be done
}

// millis prints a time as precisely as it is worth.
func millis(ms float64) string {
	switch {
	case ms >= 10:
		return fmt.Sprintf("%.0f ms", ms)
	case ms >= 1:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.2f ms", ms)
}
