package cmd

import (
	"strconv"

	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

// allowedBy returns the policy for peers without rules of their own: the targets of the command line, and
// what the flags of allowFlags say, which a file that is read again may say differently.
func allowedBy(c *cli.Context, file configFile, targets []string) (tunnel.Policy, error) {
	var p tunnel.Policy
	for _, s := range targets {
		r, err := tunnel.ParseOffer(s)
		if err != nil {
			return p, usagef("for example: adit expose 22", "%v", err)
		}
		p.Targets = append(p.Targets, r)
	}
	for _, r := range []struct {
		flag  string
		parse func([]string) ([]tunnel.Rule, error)
		to    *[]tunnel.Rule
	}{{"allow", tunnel.ParseOffers, &p.Targets}, {"allow-remote", tunnel.ParseRules, &p.Remote}, {"allow-dynamic", tunnel.ParseOffers, &p.Dynamic}} {
		rules, err := r.parse(valuesNow(c, file, r.flag))
		if err != nil {
			return p, usagef("for example --"+r.flag+" 8000-8010", "--%s: %v", r.flag, err)
		}
		*r.to = append(*r.to, rules...)
	}
	if v := valuesNow(c, file, "max-streams"); len(v) > 0 {
		n, err := strconv.Atoi(v[0])
		if err != nil || n < 0 {
			return p, usagef("for example: --max-streams 100", "--max-streams %s is no number of streams", v[0])
		}
		p.MaxStreams = n
	}
	return p, nil
}

// policyWords says what a policy offers.
func policyWords(p *tunnel.Policy) []string {
	words := p.Words()
	for _, r := range p.Remote {
		words = append(words, "-R "+r.String())
	}
	for _, r := range p.Dynamic {
		words = append(words, "-D to "+r.String())
	}
	return words
}
