package tunnel

import (
	"fmt"
	"slices"
	"strings"
)

// A Direction is what a peer asks this side for.
type Direction string

const (
	Local   Direction = "local"   // to connect to a target of this side: ssh's -L and -W
	Remote  Direction = "remote"  // to listen on this side, for connections back to the peer: -R
	Dynamic Direction = "dynamic" // to connect to whatever a SOCKS client at the peer asks for: -D
)

// A Policy says what a peer may do. The zero Policy refuses everything. A Policy is not changed once
// it is in use.
type Policy struct {
	// Targets are what the peer may connect to; the first, if it names one target alone, is the default, and
	// the first of those for datagrams is theirs.
	Targets []Rule

	// NoLocal takes -L, -W and -D away, whatever Targets and Dynamic say: it connects to nothing.
	NoLocal bool

	// Remote is where the peer may have this side listen.
	Remote []Rule

	// Dynamic is what the peer may connect to by SOCKS, besides Targets; none takes -D away. What is
	// reached by -D is reached by -L too: a connection is a connection.
	Dynamic []Rule

	// MaxStreams is how many streams and flows the peer may have at once. 0 leaves it to the session,
	// which has a limit of its own.
	MaxStreams int
}

// Any is the rule that allows everything, "*".
var Any = Rule{text: "*", all: true, any: true, hi: maxPort}

// Default returns the target of a stream, or of datagrams, that name none; ok is false if there is no
// such target.
func (p *Policy) Default(udp bool) (t Target, ok bool) {
	for _, r := range p.Targets {
		if r.udp == udp && !p.NoLocal {
			return r.target()
		}
	}
	return Target{}, false
}

// Offers returns the single targets that the peer may connect to, the default first: what it is told
// at the meeting. Networks, ranges and wildcards are left out.
func (p *Policy) Offers() []Target {
	var targets []Target
	for _, r := range p.Targets {
		if t, ok := r.target(); ok && !p.NoLocal && !slices.Contains(targets, t) {
			targets = append(targets, t)
		}
	}
	return targets
}

// Words returns what the peer may connect to as a person writes it, rules for many included.
func (p *Policy) Words() []string {
	var words []string
	for _, r := range p.Targets {
		words = append(words, r.String())
	}
	return words
}

// Allows returns nil if the peer may go to target in this direction, or a *RefusedError that names the
// rule in words, for both ends to read. The target is in canonical form: host:port, host:port/udp or
// unix:/path; with Remote it is the place to listen at, where the host may be * and the port 0.
//
// A name is compared with names only. Where rules for networks could allow what it resolves to,
// Gate.Addresses decides.
func (p *Policy) Allows(d Direction, target string) error {
	at, err := parsePlace(target, d == Remote)
	if err != nil {
		return &RefusedError{CodeUsage, err.Error()}
	}
	if p.match(d, at) == matchYes {
		return nil
	}
	return p.refusal(d, at)
}

// rules returns what decides about a direction.
func (p *Policy) rules(d Direction) [][]Rule {
	switch {
	case d == Remote:
		return [][]Rule{p.Remote}
	case !p.NoLocal && (d == Local || d == Dynamic && len(p.Dynamic) > 0):
		return [][]Rule{p.Targets, p.Dynamic}
	}
	return nil
}

// match returns the best that any rule says.
func (p *Policy) match(d Direction, at place) match {
	best := matchNone
	for _, rules := range p.rules(d) {
		for _, r := range rules {
			best = max(best, r.match(at, d == Remote))
		}
	}
	return best
}

// named returns the offered target that goes by at's name too: the three names of the loopback are one,
// and what was offered says which is dialled.
func (p *Policy) named(at place) (Target, bool) {
	for _, r := range p.Targets {
		if t, ok := r.target(); ok && t.matches(at.Target) {
			return t, true
		}
	}
	return Target{}, false
}

// refusal says in words why d to at is refused.
func (p *Policy) refusal(d Direction, at place) *RefusedError {
	var why string
	switch {
	case d == Remote && len(p.Remote) == 0:
		why = fmt.Sprintf("listening on %s for the peer (-R) is not allowed: the rule \"remote\" is empty", at)
	case d == Remote:
		why = fmt.Sprintf("listening on %s for the peer (-R) is not allowed: the rule \"remote\" has %s", at, sample(p.Remote))
	case p.NoLocal:
		why = fmt.Sprintf("%s is not offered: the rule \"local\" is false", at)
	case d == Dynamic && len(p.Dynamic) == 0:
		why = fmt.Sprintf("%s is not offered by SOCKS (-D): the rule \"dynamic\" is empty", at)
	case d == Dynamic:
		why = fmt.Sprintf("%s is not offered by SOCKS (-D): the rule \"dynamic\" has %s", at, sample(p.Dynamic))
	case len(p.Targets) == 0:
		why = fmt.Sprintf("%s is not offered: the rule \"allow\" is empty", at)
	default:
		why = fmt.Sprintf("%s is not offered: the rule \"allow\" has %s", at, sample(p.Targets))
	}
	return &RefusedError{CodeRefused, why}
}

// sample lists rules for a sentence that has little room.
func sample(rules []Rule) string {
	const most = 3
	var names []string
	for _, r := range rules[:min(len(rules), most)] {
		names = append(names, r.String())
	}
	s := strings.Join(names, ", ")
	if n := len(rules) - most; n > 0 {
		s += fmt.Sprintf(" and %d more", n)
	}
	return s
}
