package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"adit/internal/config"
	"adit/internal/fail"
	"adit/internal/identity"
	"adit/internal/suggest"

	"github.com/urfave/cli/v2"
)

func configCommand(u *ui) *cli.Command {
	return command(u, cli.Command{
		Name:      "config",
		Usage:     "check the config file, and show what is in force",
		ArgsUsage: "check [FILE]",
		Description: `Read the config file, the variables and the file of known peers as every command does, and print
what differs from the defaults, with its source: the variable, or the file and line. A command's
own flags would go before all of it.

  adit config check               the file that is used by default
  adit config check new.toml      before it replaces the other
  adit config check -v            the defaults too`,
	}, newPlainOptions, func(_ context.Context, u *ui, o *plainOptions) error {
		if o.arg(0) != "check" || len(o.args) > 2 {
			return fail.Usagef("for example: adit config check", "config takes check and, if you like, the file")
		}
		if file := o.arg(1); file != "" {
			o.config = file
		}
		return checkConfig(u, o.config)
	})
}

// An inForce is one setting as "adit config check" shows it.
type inForce struct {
	Key   string `json:"key"`
	Value string `json:"value"` // as the file has it
	From  string `json:"from"`
}

// A shownForward is one [[forward]].
type shownForward struct {
	Peer    string   `json:"peer"`
	Local   []string `json:"local,omitempty"`
	Remote  []string `json:"remote,omitempty"`
	Dynamic []string `json:"dynamic,omitempty"`
	From    string   `json:"from"`
}

// checkConfig checks everything that stands in files and variables, and prints it.
func checkConfig(u *ui, path string) error {
	file, err := config.Load(path, keys())
	var bad complaints
	if err != nil {
		f := failureOf(err)
		for _, one := range append([]*fail.Failure{f}, f.More...) {
			bad.add(one)
		}
	}
	for _, f := range misspelt() {
		bad.add(f)
	}
	settings := inForceNow(file, u.verbose, &bad)
	known, err := file.Known()
	if err != nil {
		bad.add(failureOf(err))
		known = new(identity.Peers)
	}
	forwards := make([]shownForward, 0, len(file.Forwards))
	for _, e := range file.Forwards {
		p, ok := known.ByName(e.Peer)
		if err == nil && (!ok || p.Key.IsZero()) {
			hint := "adit peers add " + e.Peer + " KEY"
			if n := suggest.Nearest(e.Peer, known.Names()); n != "" && n != e.Peer {
				hint = "did you mean " + n + "?"
			}
			bad.add(fail.Usagef(hint, "%s: [[forward]]: no key is known for the peer %q", file.At(e.Line), e.Peer))
		}
		forwards = append(forwards, shownForward{e.Peer, e.Texts.Local, e.Texts.Remote, e.Texts.Dynamic, file.At(e.Line)})
	}
	if err := bad.err(); err != nil {
		return err
	}
	peers, err := shownPeers(file, known)
	if err != nil {
		return err
	}
	if u.json {
		b, err := json.Marshal(struct {
			File     string         `json:"file,omitempty"`
			Settings []inForce      `json:"settings"`
			Peers    []shownPeer    `json:"peers"`
			Forwards []shownForward `json:"forwards"`
		}{file.Path, settings, peers, forwards})
		if err != nil {
			return err
		}
		u.answer("%s", b)
		return nil
	}
	u.answer("%s", strings.TrimRight(configText(settings, peers, forwards), "\n"))
	switch {
	case file.Path == "":
		u.say("there is no config file at %s: that is all right", config.DefaultPath())
	default:
		u.say("%s is all right", file.Path)
	}
	return nil
}

// shownPeers says of each known peer in which files it stands.
func shownPeers(file config.File, known *identity.Peers) ([]shownPeer, error) {
	kept, err := identity.PeersFile()
	if err != nil {
		return nil, err
	}
	var peers []shownPeer
	for _, p := range known.All() {
		shown := showPeer(p)
		shown.From = kept
		if slices.ContainsFunc(file.Peers, func(x identity.Peer) bool { return x.Name == p.Name }) {
			shown.From = file.Path
			if old, err := identity.LoadPeers(kept); err == nil {
				if _, both := old.ByName(p.Name); both {
					shown.From = kept + " and " + file.Path
				}
			}
		}
		peers = append(peers, shown)
	}
	return peers, nil
}

// inForceNow returns the settings that differ from the defaults, or all of them, after the checks of each command.
func inForceNow(file config.File, all bool, bad *complaints) []inForce {
	out := make([]inForce, 0)
	seen := make(map[string]bool)
	for _, c := range everyOptions() {
		g := c.options.common()
		g.sources = make(map[string]source)
		bad.of = g
		fromVariables(c.options, bad)
		fromConfig(c.options, file)
		c.options.check(bad)
		for _, o := range c.options.list() {
			if o.key == "" || seen[o.key] {
				continue
			}
			seen[o.key] = true
			from, given := g.sources[o.name]
			if !given && !all {
				continue
			}
			if !given {
				from.from = "default"
			}
			out = append(out, inForce{o.key, tomlValue(o), from.from})
		}
	}
	table := func(key string) string { // "" is the top of the file
		t, _, in := strings.Cut(key, ".")
		if !in {
			return ""
		}
		return t
	}
	slices.SortStableFunc(out, func(a, b inForce) int { return strings.Compare(table(a.Key), table(b.Key)) })
	return out
}

// tomlValue writes a value as the file has it. A password is not shown.
func tomlValue(o option) string {
	switch to := o.to.(type) {
	case *[]string:
		return identity.QuoteList(*to)
	case *bool, *int:
		return fmt.Sprint(reflect.ValueOf(o.to).Elem())
	default:
		if strings.HasSuffix(o.name, "password") && o.text() != "" {
			return `"(not shown)"`
		}
		return identity.Quote(o.text())
	}
}

// configText writes what is in force in the form of a config file, each line with its source.
func configText(settings []inForce, peers []shownPeer, forwards []shownForward) string {
	var b strings.Builder
	table := ""
	for _, s := range settings {
		t, key, in := strings.Cut(s.Key, ".")
		if !in {
			t, key = "", s.Key
		}
		if t != table {
			fmt.Fprintf(&b, "\n[%s]\n", t)
			table = t
		}
		fmt.Fprintf(&b, "%s = %s  # %s\n", key, s.Value, s.From)
	}
	for _, p := range peers {
		head, rest, _ := strings.Cut(p.peer.Table(), "\n")
		fmt.Fprintf(&b, "\n%s  # %s\n%s", head, p.From, rest)
	}
	for _, f := range forwards {
		fmt.Fprintf(&b, "\n[[%s]]  # %s\npeer = %q\n", config.ForwardTable, f.From, f.Peer)
		for _, l := range []struct {
			key   string
			texts []string
		}{{"local", f.Local}, {"remote", f.Remote}, {"dynamic", f.Dynamic}} {
			if l.texts != nil {
				fmt.Fprintf(&b, "%s = %s\n", l.key, identity.QuoteList(l.texts))
			}
		}
	}
	return strings.TrimLeft(b.String(), "\n")
}
