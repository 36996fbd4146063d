package peer

import (
	"fmt"
	"slices"
	"strings"

	"adit/internal/event"
	"adit/internal/punch"
)

// A verdict says in a sentence why there is no direct path, and in another what would help.
type verdict struct{ reason, advice string }

const (
	publicRelay = `run "adit serve --turn" on a public host`
	forwardPort = "forward a UDP port to the machine behind it and use it with --port"
)

// seen is what a verdict is made of: what both sides found.
type seen struct {
	local, remote []punch.CandidateType
	own, peer     punch.NAT
	port          int    // that this side was told to use; 0 for none
	blind         string // of a STUN server that cannot see this side's public address
}

func (e *endpoint) seen() seen {
	own, peer, _, _, _ := e.nat.state()
	e.mu.Lock()
	defer e.mu.Unlock()
	s := seen{own: own, peer: peer, port: e.cfg.Port}
	if e.host != nil {
		s.blind = e.host.Blind()
	}
	for _, c := range e.candidates {
		s.local = append(s.local, c.Type)
	}
	for _, c := range e.remote {
		s.remote = append(s.remote, c.Type)
	}
	return s
}

// relays reports whether either side has an address on a relay.
func (s seen) relays() bool {
	return slices.Contains(s.local, punch.Relay) || slices.Contains(s.remote, punch.Relay)
}

// direct is the verdict on direct paths.
func (s seen) direct() verdict {
	const dependent = punch.EndpointDependent
	forward := "on either router " + forwardPort
	if s.port != 0 {
		forward = fmt.Sprintf("forward UDP port %d on this side's router to this machine", s.port)
	}
	known := func(of []punch.CandidateType) bool { return slices.Contains(of, punch.ServerReflexive) }
	none := func(of []punch.CandidateType) bool {
		return !slices.ContainsFunc(of, func(t punch.CandidateType) bool { return t != punch.Relay })
	}
	switch {
	case none(s.local):
		return verdict{"this machine has no address to be reached at", "connect it to a network"}
	case none(s.remote):
		return verdict{"the other side has no address to be reached at", "connect the other machine to a network"}
	case s.own.Mapping == dependent && s.peer.Mapping == dependent:
		return verdict{"both NATs change ports per destination", forward}
	case !known(s.local) && s.blind != "":
		return verdict{s.unanswered() + ", and this side's public one is not known: " + s.blind,
			"have that server see its clients' addresses (a container: its host's own network), or name another with --stun"}
	case !known(s.local) && !known(s.remote):
		return verdict{s.unanswered() + ", and neither knows its public one",
			"let UDP out of both networks, or name a STUN server that both sides reach with --stun"}
	case !known(s.local):
		return verdict{s.unanswered() + ", and no STUN server told this side its public one",
			"let UDP out of this side's network, or name a STUN server that it reaches with --stun"}
	case !known(s.remote):
		return verdict{s.unanswered() + ", and no STUN server told the other side its public one",
			"let UDP out of the other side's network, or name a STUN server that it reaches with --stun there"}
	case s.own.Mapping == dependent:
		return verdict{"this side's NAT changes ports per destination, and the other side's lets none of them in", forward}
	case s.peer.Mapping == dependent:
		return verdict{"the other side's NAT changes ports per destination, and this side's lets none of them in", forward}
	}
	return verdict{s.unanswered(), "look for a firewall between the two that drops UDP, or " + forward}
}

func (s seen) unanswered() string {
	return fmt.Sprintf("no connectivity check between this side's %s and the other side's %s was answered", addresses(s.local), addresses(s.remote))
}

// noPath is the verdict when nothing succeeded.
func (e *endpoint) noPath(err error) *Error {
	s := e.seen()
	v := s.direct()
	message, hint := "no path: "+v.reason, v.advice
	fault, failed := e.relayFault()
	switch {
	case failed && e.cfg.Path == PathRelay && !s.relays():
		return failf(ClassNoPath, fault.advice, err, "no path: only relays may be used, and %s", fault.reason)
	case e.cfg.Path == PathRelay && !s.relays():
		return failf(ClassNoPath, `name one with --turn, or meet at an "adit serve --turn"`, err, "no path: only relays may be used, and there is none")
	case e.cfg.Path == PathRelay:
		return failf(ClassNoPath, "see with --verbose, on both sides, what the relay says", err, "no path: only relays may be used, and no packet came back through one")
	case failed && !s.relays():
		message += ", and " + fault.reason
		hint = fault.advice + ", or " + hint
	case !s.relays():
		message += ", and there is no relay"
		hint = publicRelay + ", or " + hint
	case e.cfg.Path == PathDirect:
		message += ", and --path direct leaves the relay out"
		hint = "allow the relay with --path auto, or " + hint
	default:
		message += ", and no packet came back through a relay"
		hint = "see with --verbose, on both sides, what the relay says, or " + hint
	}
	return failf(ClassNoPath, hint, err, "%s", message)
}

// stays tells why a session that is up stays on a relay. err is what ended the search for a direct path.
func (e *endpoint) stays(err error) {
	if e.ctx.Err() != nil || e.link.Err() != nil {
		return
	}
	v := e.seen().direct()
	e.cfg.Logger.Info("the path stays on a relay", "err", err)
	e.cfg.Events.Emit(event.Event{Name: event.Relayed, Message: "no direct path: " + v.reason, Hint: v.advice})
}

// addresses counts them in words, those on relays apart.
func addresses(of []punch.CandidateType) string {
	n := len(slices.DeleteFunc(slices.Clone(of), func(t punch.CandidateType) bool { return t == punch.Relay }))
	return strings.TrimSuffix(fmt.Sprintf("%d addresses", n), map[bool]string{true: "es", false: ""}[n == 1])
}
