// Package plan reads what is to be forwarded: the values of -L, -R and -D and of the same keys in the config file. It
// opens nothing.
package plan

import (
	"fmt"
	"strings"

	"adit/internal/fail"
	"adit/internal/identity"
	"adit/internal/suggest"
	"adit/tunnel"
)

// A Forwarding is what -L, -R and -D ask for. The zero Forwarding is nothing.
type Forwarding struct {
	Local   []tunnel.Forward
	Remote  []tunnel.Forward
	Dynamic []tunnel.Forward
}

// Empty reports whether nothing is asked for.
func (f Forwarding) Empty() bool { return len(f.Local)+len(f.Remote)+len(f.Dynamic) == 0 }

// A Texts is a Forwarding as a person writes it.
type Texts struct{ Local, Remote, Dynamic []string }

// Empty reports whether nothing is written.
func (t Texts) Empty() bool { return len(t.Local)+len(t.Remote)+len(t.Dynamic) == 0 }

// Parse reads forwards as -L, -R and -D have them. Its errors are *fail.Failure, for the first that is wrong.
func Parse(t Texts) (Forwarding, error) {
	var f Forwarding
	var err error
	if f.Local, err = parse(t.Local, checkPlace); err != nil {
		return f, fail.Usagef("for example: adit connect -L 2222", "%v", err)
	}
	if f.Remote, err = parse(t.Remote, func(f tunnel.Forward) error {
		if f.Target.IsDefault() {
			return fmt.Errorf("forward %q of -R does not say where its connections go: write %s:localhost:80, for example", f, f)
		}
		return f.Target.CheckHere()
	}); err != nil {
		return f, fail.Usagef("for example: adit connect -R 8080:localhost:80", "%v", err)
	}
	if f.Dynamic, err = parse(t.Dynamic, func(f tunnel.Forward) error {
		if !f.Target.IsDefault() || f.Target.UDP {
			return fmt.Errorf("-D takes a port, or bind:port, and no target: %q has one", f)
		}
		return checkPlace(f)
	}); err != nil {
		return f, fail.Usagef("for example: adit connect -D 1080", "%v", err)
	}
	return f, nil
}

// checkPlace returns why this system can never listen where f says, or nil.
func checkPlace(f tunnel.Forward) error { return tunnel.Target{Path: f.Path}.CheckHere() }

func parse(texts []string, check func(tunnel.Forward) error) ([]tunnel.Forward, error) {
	var forwards []tunnel.Forward
	for _, s := range texts {
		several, err := tunnel.ParseForwards(s)
		if err != nil {
			return nil, err
		}
		for _, f := range several {
			if err := check(f); err != nil {
				return nil, err
			}
			forwards = append(forwards, f)
		}
	}
	return forwards, nil
}

// ByPeer reads what "expose --listen" forwards, by the name of the peer: each forward has the name of a known peer and
// "=" in front of it. Its errors are *fail.Failure.
func ByPeer(t Texts, known *identity.Peers) (map[string]Forwarding, error) {
	texts := make(map[string]*Texts)
	for _, l := range []struct {
		flag  string
		texts []string
		of    func(*Texts) *[]string
	}{
		{"local", t.Local, func(t *Texts) *[]string { return &t.Local }},
		{"remote", t.Remote, func(t *Texts) *[]string { return &t.Remote }},
		{"dynamic", t.Dynamic, func(t *Texts) *[]string { return &t.Dynamic }},
	} {
		for _, s := range l.texts {
			name, text := OwnerOf(s)
			if name == "" {
				return nil, fail.Usagef("for example: --"+l.flag+" laptop="+s, "with --listen, which serves many, --%s %s has to say whose it is", l.flag, s)
			}
			if _, ok := known.ByName(name); !ok {
				hint := `"adit peers list" shows who is known`
				if n := suggest.Nearest(name, known.Names()); n != "" {
					hint = "did you mean " + n + "?"
				}
				return nil, fail.Usagef(hint, "--%s: there is no peer %q", l.flag, name)
			}
			if texts[name] == nil {
				texts[name] = new(Texts)
			}
			to := l.of(texts[name])
			*to = append(*to, text)
		}
	}
	plans := make(map[string]Forwarding, len(texts))
	for name, t := range texts {
		var err error
		if plans[name], err = Parse(*t); err != nil {
			return nil, err
		}
	}
	return plans, nil
}

// OwnerOf splits NAME=FORWARD. The name is empty if there is none: the path of a unix socket may have a "=" too.
func OwnerOf(s string) (name, forward string) {
	name, forward, ok := strings.Cut(s, "=")
	if !ok || identity.CheckName(name) != nil {
		return "", s
	}
	return name, forward
}
