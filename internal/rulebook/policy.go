package rulebook

import (
	"adit/internal/fail"
	"adit/tunnel"
)

// An Allowed is what a command line, or the config file in its place, lets peers without rules of their own do.
type Allowed struct {
	Targets                []string // of the command line, the default first
	Allow, Remote, Dynamic []string // --allow, --allow-remote and --allow-dynamic
	MaxStreams             int      // 0 is what a session holds
}

// Policy reads it. Errors are *fail.Failure.
func (a Allowed) Policy() (tunnel.Policy, error) {
	var p tunnel.Policy
	for _, s := range a.Targets {
		r, err := tunnel.ParseOffer(s)
		if err != nil {
			return p, fail.Usagef("for example: adit expose 22", "%v", err)
		}
		p.Targets = append(p.Targets, r)
	}
	for _, r := range []struct {
		flag  string
		texts []string
		parse func([]string) ([]tunnel.Rule, error)
		to    *[]tunnel.Rule
	}{{"allow", a.Allow, tunnel.ParseOffers, &p.Targets}, {"allow-remote", a.Remote, tunnel.ParseRules, &p.Remote}, {"allow-dynamic", a.Dynamic, tunnel.ParseOffers, &p.Dynamic}} {
		rules, err := r.parse(r.texts)
		if err != nil {
			return p, fail.Usagef("for example --"+r.flag+" 8000-8010", "--%s: %v", r.flag, err)
		}
		*r.to = append(*r.to, rules...)
	}
	p.MaxStreams = a.MaxStreams
	return p, nil
}

// words says what a policy offers.
func words(p *tunnel.Policy) []string {
	words := p.Words()
	for _, r := range p.Remote {
		words = append(words, "-R "+r.String())
	}
	for _, r := range p.Dynamic {
		words = append(words, "-D to "+r.String())
	}
	return words
}
