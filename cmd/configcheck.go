package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"adit/internal/identity"
	"adit/internal/turn"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

func configCommand(u *ui) *cli.Command {
	return &cli.Command{
		Name:      "config",
		Usage:     "check the config file, and show what is in force",
		ArgsUsage: "check [FILE]",
		Description: `Read the config file, the variables and the file of known peers as every command does, and print
what differs from the defaults, with its source: the variable, or the file and line. A command's
own flags would go before all of it.

  adit config check               the file that is used by default
  adit config check new.toml      before it replaces the other
  adit config check -v            the defaults too`,
		Flags: commonFlags(outputFlags),
		Action: func(c *cli.Context) error {
			u.mu.Lock()
			u.json, u.quiet, u.verbose = c.Bool("json"), c.Bool("quiet"), c.Bool("verbose")
			u.mu.Unlock()
			if c.Args().First() != "check" || c.NArg() > 2 {
				return usagef("for example: adit config check", "config takes check and, if you like, the file")
			}
			if file := c.Args().Get(1); file != "" {
				if err := c.Set("config", file); err != nil {
					return err
				}
			}
			return checkConfig(c.Context, u, c)
		},
	}
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
func checkConfig(_ context.Context, u *ui, c *cli.Context) error {
	file, err := loadConfig(u, c)
	if err != nil {
		return err
	}
	settings, err := allInForce(c.App, file, u.verbose)
	if err != nil {
		return err
	}
	known, err := peersWith(file)
	if err != nil {
		return err
	}
	forwards := make([]shownForward, 0, len(file.forwards))
	for _, e := range file.forwards {
		p, ok := known.ByName(e.peer)
		if !ok || p.Key.IsZero() {
			hint := "adit peers add " + e.peer + " KEY"
			if n := nearest(e.peer, known.Names()); n != "" && n != e.peer {
				hint = "did you mean " + n + "?"
			}
			return inFile(file.path, &configError{line: e.line, message: fmt.Sprintf("[[forward]]: no key is known for the peer %q", e.peer), hint: hint})
		}
		forwards = append(forwards, shownForward{e.peer, e.local, e.remote, e.dynamic, at(file.path, e.line)})
	}
	kept, err := identity.PeersFile()
	if err != nil {
		return err
	}
	var peers []shownPeer
	for _, p := range known.All() {
		shown := showPeer(p)
		shown.From = kept
		if i := slices.IndexFunc(file.peers, func(x identity.Peer) bool { return x.Name == p.Name }); i >= 0 {
			shown.From = file.path
			if old, err := identity.LoadPeers(kept); err == nil {
				if _, both := old.ByName(p.Name); both {
					shown.From = kept + " and " + file.path
				}
			}
		}
		peers = append(peers, shown)
	}
	if u.json {
		b, err := json.Marshal(struct {
			File     string         `json:"file,omitempty"`
			Settings []inForce      `json:"settings"`
			Peers    []shownPeer    `json:"peers"`
			Forwards []shownForward `json:"forwards"`
		}{file.path, settings, peers, forwards})
		if err != nil {
			return err
		}
		u.answer("%s", b)
		return nil
	}
	u.answer("%s", strings.TrimRight(configText(settings, peers, forwards), "\n"))
	switch {
	case file.path == "":
		u.say("there is no config file at %s: that is all right", defaultConfigFile())
	default:
		u.say("%s is all right", file.path)
	}
	return nil
}

// at names a line of a file.
func at(path string, line int) string {
	if line == 0 {
		return path
	}
	return path + ":" + strconv.Itoa(line)
}

// allInForce returns the settings that differ from the defaults, or all of them, after checking each.
func allInForce(app *cli.App, file configFile, all bool) ([]inForce, error) {
	out := make([]inForce, 0)
	var seen []string
	for _, c := range app.Commands {
		for _, f := range settings(c) {
			key := keyOf(c.Name, f.Names()[0])
			if slices.Contains(seen, key) {
				continue
			}
			seen = append(seen, key)
			values, from, err := valueInForce(f, key, file)
			if err != nil {
				return nil, err
			}
			if from == "" && !all {
				continue
			}
			if from == "" {
				from = "default"
			} else if err := checkValue(key, values); err != nil {
				f := failureOf(err)
				return nil, usagef(f.hint, "%s: %s: %s", from, key, f.message)
			}
			out = append(out, inForce{key, tomlValue(key, kindOf(f), values), from})
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
	return out, nil
}

// valueInForce returns the value of a flag that no command line gives, and its source; "" is the default.
func valueInForce(f cli.Flag, key string, file configFile) (values []string, from string, err error) {
	d := f.(cli.DocGenerationFlag) // each of ours is one
	for _, name := range d.GetEnvVars() {
		v, set := os.LookupEnv(name)
		if !set || v == "" && kindOf(f) != kindString {
			continue
		}
		values := []string{v}
		if kindOf(f) == kindList {
			values = strings.Split(v, ",")
		}
		if err := tryValue(f, values); err != nil {
			return nil, "", usagef("change the variable", "$%s: %v", name, err)
		}
		return values, "$" + name, nil
	}
	if s, given := file.settings[key]; given {
		if err := tryValue(f, s.values); err != nil {
			return nil, "", inFile(file.path, &configError{line: s.line, message: fmt.Sprintf("%s: %v", key, err), hint: exampleHint})
		}
		return s.values, at(file.path, s.line), nil
	}
	if v := d.GetValue(); v != "" && kindOf(f) != kindList {
		return []string{v}, "", nil
	}
	return nil, "", nil
}

// tryValue reports whether a flag of this kind takes the values.
func tryValue(f cli.Flag, values []string) error {
	for _, v := range values {
		var err error
		switch kindOf(f) {
		case kindBool:
			_, err = strconv.ParseBool(v)
		case kindInt:
			_, err = strconv.Atoi(v)
		case kindDuration:
			_, err = time.ParseDuration(v)
		}
		if err != nil {
			return fmt.Errorf("%q is not %s", v, kindOf(f))
		}
	}
	return nil
}

// checkValue checks the values that have a grammar, as the commands do.
func checkValue(key string, values []string) error {
	if len(values) == 0 { // a list of nothing
		return nil
	}
	each := func(check func(string) error) error {
		for _, v := range values {
			if err := check(v); err != nil {
				return usagef(exampleHint, "%v", err)
			}
		}
		return nil
	}
	switch key {
	case "signal":
		return checkSignal(values[0])
	case "ice.stun":
		_, err := stunList(values)
		return err
	case "ice.turn":
		return each(turn.CheckURL)
	case "ice.path":
		if !slices.Contains([]string{"auto", "direct", "relay"}, values[0]) {
			return usagef("use auto, direct or relay", "%q is no choice", values[0])
		}
	case "ice.port":
		if n, err := strconv.Atoi(values[0]); err != nil || n < 0 || n > 65535 {
			return usagef("give a port from 1 to 65535", "%s is no port", values[0])
		}
	case "expose.local", "expose.remote", "expose.dynamic":
		forwards := make([]string, len(values))
		for i, s := range values {
			_, forwards[i] = ownerOf(s)
		}
		return checkValue("connect"+strings.TrimPrefix(key, "expose"), forwards)
	case "connect.local":
		_, err := parseForwarding(values, nil, nil)
		return err
	case "connect.remote":
		_, err := parseForwarding(nil, values, nil)
		return err
	case "connect.dynamic":
		_, err := parseForwarding(nil, nil, values)
		return err
	case "connect.allow", "connect.allow_remote", "connect.allow_dynamic", "expose.allow", "expose.allow_remote", "expose.allow_dynamic":
		return each(func(s string) error { _, err := tunnel.ParseRule(s); return err })
	case "connect.flow_memory", "expose.flow_memory":
		_, err := flowBudget("", values[0])
		return err
	case "connect.stdio":
		return each(func(s string) error { _, err := tunnel.ParseTarget(s); return err })
	}
	return nil
}

// tomlValue writes a value as the file has it. A password is not shown.
func tomlValue(key string, k kind, values []string) string {
	if strings.HasSuffix(key, "password") && len(values) > 0 {
		return `"(not shown)"`
	}
	switch {
	case k == kindList:
		return identity.QuoteList(values)
	case len(values) == 0:
		return `""`
	case k == kindBool || k == kindInt:
		return values[0]
	}
	return identity.Quote(strings.Trim(values[0], `"`))
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
		fmt.Fprintf(&b, "\n[[%s]]  # %s\npeer = %q\n", forwardTable, f.From, f.Peer)
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
