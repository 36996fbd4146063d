package cmd

import (
	"strings"

	"adit/internal/config"
	"adit/internal/forwards"
	"adit/internal/identity"
	"adit/internal/plan"
	"adit/internal/rulebook"
	"adit/tunnel"
)

// forwardOptions say what is forwarded.
type forwardOptions struct {
	texts plan.Texts
	flows string // what flows of datagrams may take in all
}

func (o *forwardOptions) flowMemory() string { return o.flows }

func (o *forwardOptions) list(command string) []option {
	return own(command,
		option{name: "local", short: "L", to: &o.texts.Local, whole: true, usage: "`FORWARD` a port to the peer: [BIND:]PORT[:HOST:HOSTPORT][/udp], as in ssh; several times if you like"},
		option{name: "remote", short: "R", to: &o.texts.Remote, whole: true, usage: "have the peer listen and `FORWARD` to this side: [BIND:]PORT:HOST:HOSTPORT[/udp]"},
		option{name: "dynamic", short: "D", to: &o.texts.Dynamic, usage: "serve SOCKS 5 at `[BIND:]PORT`; the peer connects to what its clients ask for"},
		option{name: "flow-memory", to: &o.flows, usage: "let flows of datagrams, 32 KiB each, take `SIZE` in all, say 64MiB", none: "four fifths of --memory"},
	)
}

// check reads each forward by itself. With owned a forward may have the name of a peer in front of it.
func (o *forwardOptions) check(bad *complaints, owned bool) {
	if n, ok := parseSize(o.flows); o.flows != "" && (!ok || n == 0) {
		bad.about("flow-memory", "for example --flow-memory 64MiB", "%q is no size", o.flows)
	}
	one := func(s string) string {
		if owned {
			_, s = plan.OwnerOf(s)
		}
		return s
	}
	report := func(flag string, t plan.Texts) {
		if _, err := plan.Parse(t); err != nil {
			f := failureOf(err)
			bad.about(flag, f.Hint, "%s", f.Message)
		}
	}
	for _, s := range o.texts.Local {
		report("local", plan.Texts{Local: []string{one(s)}})
	}
	for _, s := range o.texts.Remote {
		report("remote", plan.Texts{Remote: []string{one(s)}})
	}
	for _, s := range o.texts.Dynamic {
		report("dynamic", plan.Texts{Dynamic: []string{one(s)}})
	}
}

// allowOptions say what the peer may do here.
type allowOptions struct {
	allow, remote, dynamic []string
	streams                int
}

func (o *allowOptions) list(command string) []option {
	return own(command,
		option{name: "allow", to: &o.allow, usage: "let the peer connect to `RULE`: [HOST:]PORT[-PORT], 10.0.0.0/8:PORT, *.lan:PORT, unix:/path, with /udp for datagrams; several times if you like"},
		option{name: "allow-remote", to: &o.remote, usage: "let the peer have this side listen (-R) where `RULE` says: PORT[-PORT] of localhost, BIND:PORT, unix:/path; port 0 is any"},
		option{name: "allow-dynamic", to: &o.dynamic, usage: "let the peer reach by SOCKS (-D) what `RULE` names, '*' for everything"},
		option{name: "max-streams", to: &o.streams, usage: "let the peer have `N` streams at once", none: "what a session holds"},
	)
}

func (o *allowOptions) check(bad *complaints) {
	for _, r := range []struct {
		flag  string
		texts []string
		parse func([]string) ([]tunnel.Rule, error)
	}{{"allow", o.allow, tunnel.ParseOffers}, {"allow-remote", o.remote, tunnel.ParseRules}, {"allow-dynamic", o.dynamic, tunnel.ParseOffers}} {
		for _, s := range r.texts {
			if _, err := r.parse([]string{s}); err != nil {
				bad.about(r.flag, "for example --"+r.flag+" 8000-8010", "%v", err)
			}
		}
	}
	if o.streams < 0 {
		bad.about("max-streams", "for example: --max-streams 100", "%d is no number of streams", o.streams)
	}
}

func (o *allowOptions) allowed(targets []string) rulebook.Allowed {
	return rulebook.Allowed{Targets: targets, Allow: o.allow, Remote: o.remote, Dynamic: o.dynamic, MaxStreams: o.streams}
}

// openBook opens the rule book of a command.
func openBook(u *ui, command string, o settings, base func(config.File) (tunnel.Policy, error)) (*rulebook.Book, error) {
	return rulebook.Open(rulebook.Config{
		File: o.common().file, Base: base, Say: u.say, Logger: u.logger(),
		Load: func() (config.File, error) { return load(u, command, o) },
	})
}

// told has forwards tell u what becomes of them.
func (u *ui) told() forwards.Told {
	return forwards.Told{Event: u.event, Unlisten: u.run.unlisten, Say: u.say, Logger: u.logger(), Flows: u.flows, Explain: func(err error) string {
		f := failureOf(err)
		if f.Hint == "" {
			return f.Message
		}
		return f.Message + " (" + f.Hint + ")"
	}}
}

// replan reads the files again, and has f forward what texts takes from them. Where that makes no sense, rules do not
// change either.
func replan(book *rulebook.Book, f *forwards.Forwarder, texts func(config.File) (plan.Texts, error)) error {
	var asked plan.Forwarding
	if err := book.Reload(func(file config.File, _ *identity.Peers) error {
		t, err := texts(file)
		if err == nil {
			asked, err = plan.Parse(t)
		}
		return err
	}); err != nil {
		return err
	}
	return f.Change(asked)
}

// list joins names for a sentence.
func list(names []string) string {
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
}
