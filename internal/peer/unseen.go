package peer

import (
	"net/netip"

	"adit/internal/event"
	"adit/internal/punch"
)

// tellUnseen warns, before a line is shown, that no STUN server answered: then the line has none of this side's
// addresses as the world sees them, and most likely leads nowhere outside of this network.
func (e *endpoint) tellUnseen() {
	if len(e.base.servers()) == 0 || e.cfg.Path == PathRelay {
		return
	}
	e.mu.Lock()
	far := reachOf(e.candidates)
	e.mu.Unlock()
	ev := event.Event{Name: event.Unseen, Hint: `see whether DNS works and UDP gets out (adit doctor), or name another server with --stun HOST:PORT`}
	switch far {
	case reachNetwork:
		ev.Message = "no STUN server answered: this line works only on the same network"
	case reachIPv6:
		ev.Message = "no STUN server answered: this line works over IPv6, or on the same network"
	default:
		return
	}
	e.cfg.Events.Emit(ev)
}

// How far the addresses of a side reach.
type extent int

const (
	reachNetwork extent = iota // machines of the same network
	reachIPv6                  // machines with IPv6 too
	reachWorld
)

// reachOf says how far candidates reach. A host with a public address needs no STUN server, nor does one behind a
// router that maps a port; a firewall may still be in the way, which only a try can tell.
func reachOf(candidates []punch.Candidate) extent {
	r := reachNetwork
	for _, c := range candidates {
		switch {
		case c.Type != punch.HostCandidate, c.Addr.Addr().Is4() && public(c.Addr.Addr()):
			return reachWorld
		case public(c.Addr.Addr()):
			r = reachIPv6
		}
	}
	return r
}

// carrierNAT is what providers use in front of their own NATs (RFC 6598).
var carrierNAT = netip.MustParsePrefix("100.64.0.0/10")

func public(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !carrierNAT.Contains(a)
}
