package tunnel

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const ruleExample = "write a port, host:port, host:port-port, 10.0.0.0/8:port or unix:/path, for example localhost:22"

// A Rule names targets, or places to listen at, as one line of a policy does:
//
//	22, 8000-8010, *              ports of the loopback; * alone is everything
//	db.lan:5432, *.lan:443, *:80  of a host, of all names below a domain, of any host
//	10.0.0.1:22, 10.0.0.0/8:22-80, [fd00::/8]:*
//	dns.lan:53/udp                datagrams; without /udp a rule is about connections
//	unix:/run/app.sock, /run/app.sock, unix:@app, @app
//
// For a place to listen at, the host is the address of this machine: * includes all interfaces at
// once, and port 0 is any that is free. A Rule that came from ParseRule is canonical.
type Rule struct {
	text   string
	path   string       // of a unix socket, or @name; the rest is empty then
	all    bool         // * alone: sockets too
	any    bool         // *, any host
	suffix string       // .lan, for *.lan
	host   string       // canonical; "" if one of the above is set, or a prefix of several addresses
	prefix netip.Prefix // of an address, or of many
	lo, hi int          // ports, both included
	udp    bool
}

// How a rule stands to a target.
type match uint8

const (
	matchNone   match = iota
	matchByAddr       // it depends on what the name resolves to
	matchYes
)

// ParseRule reads a rule. The error is a sentence with an example.
func ParseRule(s string) (Rule, error) {
	r, err := parseRule(s)
	if err != nil {
		if better, ok := withBrackets(s, parseRule); ok {
			return Rule{}, fmt.Errorf("rule %q: an IPv6 address stands in brackets, write %s", s, better)
		}
		return Rule{}, fmt.Errorf("rule %q: %v; %s", s, err, ruleExample)
	}
	r.text = r.canonical()
	return r, nil
}

// ParseRules reads several rules.
func ParseRules(texts []string) ([]Rule, error) {
	rules := make([]Rule, 0, len(texts))
	for _, s := range texts {
		r, err := ParseRule(s)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// ParseOffer reads what this side is to let a peer connect to, as it stands on a command line: a target, or a rule that
// has many. What ParseOffers refuses is an error.
func ParseOffer(s string) (Rule, error) {
	t, err := ParseTarget(s)
	if err == nil {
		s = t.String()
	}
	r, errRule := ParseRule(s)
	if err != nil && errRule != nil {
		return Rule{}, err // says what a target is
	}
	if errRule == nil {
		errRule = r.checkOffer()
	}
	return r, errRule
}

// ParseOffers reads rules about what this side connects to for a peer. A rule that can never lead anywhere is an error:
// port 0 alone, or a socket that this system cannot have.
func ParseOffers(texts []string) ([]Rule, error) {
	rules, err := ParseRules(texts)
	if err != nil {
		return nil, err
	}
	for _, r := range rules {
		if err := r.checkOffer(); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

func (r Rule) checkOffer() error {
	if r.hi == 0 && r.path == "" {
		return fmt.Errorf("rule %q: port 0 is for places to listen at, a target has a port from 1 to 65535; %s", r, ruleExample)
	}
	if err := (Target{Path: r.path}).CheckHere(); err != nil {
		return fmt.Errorf("rule %q: %v", r, err)
	}
	return nil
}

// RuleOf returns the rule that names t alone.
func RuleOf(t Target) Rule {
	r, err := ParseRule(t.String())
	if err != nil {
		panic("tunnel: " + err.Error()) // each target but the default one is a rule
	}
	return r
}

func parseRule(s string) (Rule, error) {
	if p, ok := cutPath(s); ok {
		t, err := parsePath(p)
		return Rule{path: t.Path}, err
	}
	if s == "*" {
		return Rule{all: true, any: true, hi: maxPort}, nil
	}
	var r Rule
	s, r.udp = strings.CutSuffix(s, "/udp")
	host, ports, found := cutPort(s)
	if !found {
		if host != "" && !digits(strings.Replace(host, "-", "", 1)) {
			return Rule{}, fmt.Errorf("it has no port")
		}
		host, ports = "localhost", s
	}
	var err error
	if r.lo, r.hi, err = parsePorts(ports); err != nil {
		return Rule{}, err
	}
	inner := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	switch {
	case host == "*":
		r.any = true
	case strings.HasPrefix(host, "*."):
		name, err := parseHost(host[2:])
		if err != nil {
			return Rule{}, err
		}
		if _, err := netip.ParseAddr(name); err == nil {
			return Rule{}, fmt.Errorf("* stands in front of a domain, or write 10.0.0.0/8")
		}
		r.suffix = "." + bare(name)
	case strings.Contains(inner, "/"):
		p, err := netip.ParsePrefix(inner)
		if err != nil {
			return Rule{}, fmt.Errorf("%q is not a network like 10.0.0.0/8", inner)
		}
		if p.Addr().Is6() && !strings.HasPrefix(host, "[") {
			return Rule{}, fmt.Errorf("an IPv6 network stands in brackets, write [%s]", inner)
		}
		if p.Addr().Is4In6() {
			return Rule{}, fmt.Errorf("%q is a network of IPv4 addresses, write it as one", inner)
		}
		if p != p.Masked() {
			return Rule{}, fmt.Errorf("%q has bits behind its prefix, write %s", inner, p.Masked())
		}
		if r.prefix = p; p.IsSingleIP() {
			r.host = p.Addr().String()
		}
	default:
		if r.host, err = parseHost(host); err != nil {
			return Rule{}, err
		}
		if a, err := netip.ParseAddr(r.host); err == nil && a.Zone() == "" {
			r.prefix = netip.PrefixFrom(a, a.BitLen())
		}
	}
	return r, nil
}

const maxPort = 65535

// parsePorts reads a port, a range, or * for all.
func parsePorts(s string) (lo, hi int, err error) {
	if s == "*" {
		return 0, maxPort, nil
	}
	first, last, ranged := strings.Cut(s, "-")
	if lo, err = parsePort(first); err != nil {
		return 0, 0, err
	}
	if !ranged {
		return lo, lo, nil
	}
	if hi, err = parsePort(last); err != nil {
		return 0, 0, err
	}
	if hi < lo {
		return 0, 0, fmt.Errorf("the range %s ends before it begins", s)
	}
	return lo, hi, nil
}

// String returns the canonical form, which ParseRule reads.
func (r Rule) String() string { return r.text }

func (r Rule) canonical() string {
	switch {
	case r.path != "":
		return "unix:" + r.path
	case r.all:
		return "*"
	}
	host := bracketed(r.host)
	switch {
	case r.any:
		host = "*"
	case r.suffix != "":
		host = "*" + r.suffix
	case r.host == "":
		host = bracketed(r.prefix.String())
	}
	ports := strconv.Itoa(r.lo)
	switch {
	case r.lo == 0 && r.hi == maxPort:
		ports = "*"
	case r.lo != r.hi:
		ports += "-" + strconv.Itoa(r.hi)
	}
	s := host + ":" + ports
	if r.udp {
		s += "/udp"
	}
	return s
}

// A place is what a policy is asked about: a target, or an address to listen at, where the host may be *
// and the port 0.
type place struct{ Target }

// parsePlace reads a place in canonical form, as Target.String and Forward.Place write it.
func parsePlace(s string, listening bool) (place, error) {
	if listening {
		f, err := ParseForward(s)
		if err != nil || !f.Target.IsDefault() {
			return place{}, fmt.Errorf("%.300q is no place to listen at", s)
		}
		return place{Target{Host: f.Bind, Port: f.Port, Path: f.Path, UDP: f.Target.UDP}}, nil
	}
	t, err := ParseTarget(s)
	return place{t}, err
}

// match says how r stands to p. Names are compared, not resolved.
func (r Rule) match(p place, listening bool) match {
	switch {
	case r.all:
		return matchYes
	case r.path != "" || p.Path != "":
		return yes(r.path == p.Path)
	case r.udp != p.UDP || p.Port < r.lo || p.Port > r.hi:
		return matchNone
	case r.any:
		return matchYes
	case p.Host == "*":
		return matchNone
	case r.host != "" && (bare(r.host) == bare(p.Host) || r.loopback() && p.loopback()):
		return matchYes
	case r.suffix != "":
		return yes(len(bare(p.Host)) > len(r.suffix) && strings.HasSuffix(bare(p.Host), r.suffix))
	case !r.prefix.IsValid():
		return matchNone
	}
	a, err := netip.ParseAddr(p.Host)
	switch {
	case err == nil && listening && a.IsUnspecified():
		return matchNone // all interfaces at once: only * has them
	case err == nil:
		return yes(r.prefix.Contains(a.Unmap()))
	case listening || r.prefix.IsSingleIP():
		return matchNone // the name is not the address
	}
	return matchByAddr
}

func (r Rule) loopback() bool { return Target{Host: r.host}.loopback() }

func yes(ok bool) match {
	if ok {
		return matchYes
	}
	return matchNone
}

// target returns the one target that r names, if it does.
func (r Rule) target() (Target, bool) {
	if r.path != "" {
		return Target{Path: r.path}, true
	}
	if r.host == "" || r.lo != r.hi || r.lo == 0 {
		return Target{}, false
	}
	return Target{Host: r.host, Port: r.lo, UDP: r.udp}, true
}
