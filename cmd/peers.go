package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"adit/internal/config"
	"adit/internal/control"
	"adit/internal/fail"
	"adit/internal/identity"
	"adit/internal/suggest"

	"github.com/urfave/cli/v2"
)

// peersOptions are those of "adit peers". They say what to do once, so that no variable and no file has them.
type peersOptions struct {
	given
	outputOptions
	signal, allow, remote, dynamic []string
	noLocal, replace               bool
	streams                        int
}

func newPeersOptions() *peersOptions { return new(peersOptions) }

func (o *peersOptions) list() []option {
	return append([]option{
		{name: "signal", to: &o.signal, usage: "add: meet it at the rendezvous `URL`, several times if you like", none: "that of the config file"},
		{name: "allow", to: &o.allow, usage: "add: it may connect to `RULE`, a port, HOST:PORT[-PORT], 10.0.0.0/8:PORT or unix:/path"},
		{name: "no-local", to: &o.noLocal, usage: "add: it may not connect to anything here (-L, -W, -D)"},
		{name: "remote", to: &o.remote, usage: "add: it may have this machine listen at `RULE`, [BIND:]PORT[-PORT] (-R)"},
		{name: "dynamic", to: &o.dynamic, usage: "add: it may reach `RULE` by SOCKS (-D), * for everything"},
		{name: "streams", to: &o.streams, usage: "add: it may have `N` streams at once", none: "what a session holds"},
		{name: "replace", to: &o.replace, usage: "add: take the new key of a peer that is known"},
	}, o.outputOptions.list()...)
}

func (o *peersOptions) check(bad *complaints) {
	o.outputOptions.check(bad)
	if o.streams < 0 {
		bad.about("streams", "for example --streams 100", "%d is no number of streams", o.streams)
	}
}

var peersVerbs = []string{"list", "add", "rename", "remove"}

func peersCommand(u *ui) *cli.Command {
	return command(u, cli.Command{
		Name:      "peers",
		Usage:     "list, add, rename or remove the peers that this machine knows",
		ArgsUsage: "list | add NAME KEY | rename NAME NAME | remove NAME",
		Description: `The peers that this machine knows by name and key. A known peer meets this machine without a code,
and may do what its rules say; without rules, what "adit expose" was given.

  adit peers                          list them
  adit peers add home KEY             what "adit key" prints there; - reads it
  adit peers add bob KEY --allow 22 --allow 10.0.0.0/8:80-443
  adit peers add home KEY --replace   home has rotated its key
  adit peers rename bob robert
  adit peers remove robert`,
	}, newPeersOptions, func(ctx context.Context, u *ui, o *peersOptions) error {
		args := o.args
		if len(args) == 0 {
			args = []string{"list"}
		}
		verbs := map[string]struct {
			args int
			help string
			do   func(path string, args []string) error
		}{
			"list":   {0, "adit peers list", func(string, []string) error { return listPeers(u, o.file) }},
			"add":    {2, "adit peers add NAME KEY", func(path string, a []string) error { return addPeer(ctx, u, o, path, a[0], a[1]) }},
			"rename": {2, "adit peers rename OLD NEW", func(path string, a []string) error { return identity.Rename(path, a[0], a[1]) }},
			"remove": {1, "adit peers remove NAME", func(path string, a []string) error { return removePeer(ctx, u, path, a[0]) }},
		}
		v, ok := verbs[args[0]]
		if !ok {
			hint := "use list, add, rename or remove"
			if n := suggest.Nearest(args[0], peersVerbs); n != "" {
				hint = `did you mean "adit peers ` + n + `"?`
			}
			return fail.Usagef(hint, "peers cannot %q", args[0])
		}
		if len(args)-1 != v.args {
			return fail.Usagef("for example: "+v.help, "peers %s takes %d arguments, not %d", args[0], v.args, len(args)-1)
		}
		path, err := identity.PeersFile()
		if err != nil {
			return err
		}
		return v.do(path, args[1:])
	})
}

// addPeer puts a peer into the file of known peers.
func addPeer(ctx context.Context, u *ui, o *peersOptions, path, name, text string) error {
	if text == "-" {
		var err error
		if text, err = readLine(ctx, os.Stdin); err != nil {
			return err
		}
	}
	key, err := identity.ParsePublicKey(text)
	if err != nil {
		return err
	}
	if dir, err := identity.StateDir(); err == nil {
		if own, err := identity.Load(dir); err == nil && own.Public() == key {
			return fail.Usagef(`take what "adit key" prints on the other machine`, "this is this machine's own key")
		}
	}
	p := identity.Peer{Name: name, Key: key, Signal: o.signal, Allow: o.allow, Remote: o.remote, Dynamic: o.dynamic}
	if o.noLocal {
		p.Local = new(bool)
	}
	if o.set("streams") {
		p.Streams = &o.streams
	}
	if err := config.CheckPeer(p); err != nil {
		return fail.Usagef("for example: adit peers add "+name+" KEY --allow localhost:22", "%v", err)
	}
	if o.replace {
		for _, flag := range []string{"signal", "allow", "no-local", "remote", "dynamic", "streams"} {
			if o.set(flag) {
				return fail.Usagef("leave it out, and edit "+path, "--replace takes another key and leaves all else as it is: --%s does not go with it", flag)
			}
		}
		if err := identity.SetKey(path, name, key); err != nil {
			return err
		}
		u.say("%s has the key %s now", name, key.Fingerprint())
		return nil
	}
	added, err := identity.Add(path, p)
	switch {
	case err != nil:
		return err
	case added:
		u.say("%s is known by the key %s", name, key.Fingerprint())
	default:
		u.say("%s is known by this key already; its rules stay as they are in %s", name, path)
	}
	return nil
}

// removePeer takes a peer out of the file of known peers, and tells what becomes of its sessions: whoever serves it sees
// the change within bookAge.
func removePeer(ctx context.Context, u *ui, path, name string) error {
	if err := identity.Remove(path, name); err != nil {
		return err
	}
	all, _ := control.Statuses(ctx) // those that do not answer are not missed here
	for _, s := range all {
		for _, p := range s.Sessions {
			if p.Peer == name && p.Met == "key" {
				u.say("%s is not known any more; adit %s (%d) ends its session", name, s.Command, s.PID)
				return nil
			}
		}
	}
	u.say("%s is not known any more", name)
	return nil
}

// A shownPeer is what "adit peers list --json" prints a line of.
type shownPeer struct {
	Name        string              `json:"name"`
	Key         *identity.PublicKey `json:"key,omitempty"`
	Fingerprint string              `json:"fingerprint,omitempty"`
	Signal      []string            `json:"signal,omitempty"`
	Allow       []string            `json:"allow,omitempty"`
	Local       *bool               `json:"local,omitempty"`
	Remote      []string            `json:"remote,omitempty"`
	Dynamic     []string            `json:"dynamic,omitempty"`
	Streams     *int                `json:"streams,omitempty"`
	From        string              `json:"from,omitempty"` // the file or files; of "adit config check"

	peer identity.Peer
}

func showPeer(p identity.Peer) shownPeer {
	shown := shownPeer{peer: p, Name: p.Name, Signal: p.Signal, Allow: p.Allow, Local: p.Local, Remote: p.Remote, Dynamic: p.Dynamic, Streams: p.Streams}
	if !p.Key.IsZero() {
		shown.Key, shown.Fingerprint = &p.Key, p.Key.Fingerprint()
	}
	return shown
}

// listPeers prints the peers of both files.
func listPeers(u *ui, file config.File) error {
	known, err := file.Known()
	if err != nil {
		return err
	}
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, p := range known.All() {
		shown, fingerprint := showPeer(p), "no key"
		if shown.Key != nil {
			fingerprint = shown.Fingerprint
		}
		if u.json {
			line, err := json.Marshal(shown)
			if err != nil {
				return err
			}
			u.answer("%s", line)
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", p.Name, fingerprint, rulesText(p))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(known.All()) == 0 {
		u.say(`no peers are known; "adit peers add NAME KEY" adds one, KEY being what "adit key" prints there`)
	}
	for line := range strings.Lines(b.String()) {
		u.answer("%s", strings.TrimRight(line, " \n"))
	}
	return nil
}

// rulesText says in few words what a peer may do.
func rulesText(p identity.Peer) string {
	var parts []string
	add := func(name string, rules []string) {
		if rules == nil {
			return
		}
		s := "nothing"
		if len(rules) > 0 {
			s = strings.Join(rules, " ")
		}
		parts = append(parts, name+" "+s)
	}
	add("allow", p.Allow)
	if p.Local != nil && !*p.Local {
		parts = append(parts, "no local")
	}
	add("remote", p.Remote)
	add("dynamic", p.Dynamic)
	if p.Streams != nil {
		parts = append(parts, fmt.Sprintf("streams %d", *p.Streams))
	}
	return strings.Join(parts, ", ")
}
