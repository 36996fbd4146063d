package cmd

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"adit/internal/config"
	"adit/internal/control"
	"adit/internal/fail"
	"adit/internal/handshake"
	"adit/internal/manual"

	"github.com/urfave/cli/v2"
)

// helpColumns is how wide a line of help may be.
const helpColumns = 80

// completeCommand is what shells run; it is no command for people.
const completeCommand = "__complete"

// describe makes the manual of the program's commands.
func describe(app *cli.App) *manual.Program {
	p := &manual.Program{
		Name: app.Name, Summary: app.Usage, Version: version(),
		Intro: `adit joins two machines behind NATs by a direct, encrypted path and forwards ports over it.

  adit expose 22         offer this machine's port 22, and print how to connect
  adit connect -L 2222   join, and forward local port 2222 to it
`,
		Tables: []manual.Table{
			{Name: "[peers.NAME]", Description: `What a known peer may do here: key, signal, allow, local, remote, dynamic and streams, as "adit peers add" has them. A peer of this table that stands in peers.toml too has what either says; this file goes first.`},
			{Name: "[[forward]]", Description: `What "adit connect NAME" forwards if its command line says nothing of that: peer, and lists local, remote and dynamic in the grammar of -L, -R and -D.`},
		},
	}
	options := make(map[string]settings)
	for _, c := range everyOptions() {
		options[c.command] = c.options
	}
	for _, c := range app.Commands {
		m := manual.Command{Name: c.Name, Summary: c.Usage, Args: c.ArgsUsage, Description: c.Description, Expect: expectations[c.Name]}
		for _, o := range options[c.Name].list() {
			if o.hidden {
				continue
			}
			f := flagOf(o)
			if strings.HasPrefix(o.key, iceTable+".") {
				m.Seldom = append(m.Seldom, f)
			} else {
				m.Flags = append(m.Flags, f)
			}
		}
		p.Commands = append(p.Commands, m)
	}
	return p
}

// flagOf describes the flag of an option. A word of its usage in back quotes stands for the value.
func flagOf(o option) manual.Flag {
	before, rest, named := strings.Cut(o.usage, "`")
	value, after, _ := strings.Cut(rest, "`")
	f := manual.Flag{Name: o.name, Short: o.short, Usage: before + value + after, Values: o.values, Path: o.path, Key: o.key}
	if len(o.variables) > 0 {
		f.Variable = o.variables[0]
	}
	if o.kind() == config.Bool {
		return f
	}
	f.Value, f.Default = value, o.none
	if !named {
		f.Value = "VALUE"
	}
	if f.Default == "" {
		f.Default = o.text()
	}
	return f
}

// expectations say what may follow the arguments of a command.
var expectations = map[string]func(args []string) manual.Expected{
	"connect": expectPeer, "ping": expectPeer, "bench": expectPeer,
	"pipe": func(args []string) manual.Expected {
		if len(args) > 0 {
			return manual.Expected{}
		}
		return manual.Expected{Kind: "code"}
	},
	"stop": func(args []string) manual.Expected { return manual.Expected{Kind: "process"} },
	"peers": func(args []string) manual.Expected {
		switch {
		case len(args) == 0:
			return manual.Expected{Words: peersVerbs}
		case len(args) == 1 && (args[0] == "remove" || args[0] == "rename"):
			return manual.Expected{Kind: "peer"}
		}
		return manual.Expected{}
	},
	"config": func(args []string) manual.Expected {
		if len(args) == 0 {
			return manual.Expected{Words: []string{"check"}}
		}
		return manual.Expected{Files: len(args) == 1}
	},
	"service": func(args []string) manual.Expected {
		switch {
		case len(args) == 0:
			return manual.Expected{Words: serviceVerbs}
		case args[0] == "install":
			return manual.Expected{Words: []string{"expose", "connect", "serve"}, Command: true}
		}
		return manual.Expected{}
	},
	"completion": func(args []string) manual.Expected {
		if len(args) > 0 {
			return manual.Expected{}
		}
		return manual.Expected{Words: manual.Shells}
	},
	"man": func(args []string) manual.Expected {
		if len(args) > 0 {
			return manual.Expected{}
		}
		return manual.Expected{Kind: "page"}
	},
	"expose": func([]string) manual.Expected { return manual.Expected{Files: true} }, // unix sockets
}

func expectPeer(args []string) manual.Expected {
	if len(args) > 0 {
		return manual.Expected{}
	}
	return manual.Expected{Kind: "peer or code"}
}

// lookUp returns what completion finds outside of the command line. Whatever fails, there is nothing to complete.
func lookUp(p *manual.Program, kind, begins string) []manual.Candidate {
	var list []manual.Candidate
	add := func(word, about string) {
		if strings.HasPrefix(word, begins) {
			list = append(list, manual.Candidate{Word: word, About: about})
		}
	}
	file, err := config.Load("", keys())
	if err != nil {
		file = config.File{}
	}
	switch kind {
	case "page":
		add("config", "the config file")
		for _, n := range p.Names() {
			add(n, "")
		}
	case "signal":
		if s, ok := file.Settings["signal"].Value.(string); ok {
			add(s, "of the config file")
		}
	case "process":
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		all, _ := control.Statuses(ctx) // those that answer
		for _, s := range all {
			add(strconv.Itoa(s.PID), s.Command)
		}
	case "peer", "peer or code":
		if known, err := file.Known(); err == nil {
			for _, n := range known.Names() {
				add(n, "a known peer")
			}
		}
	}
	if kind == "code" || kind == "peer or code" {
		for _, code := range handshake.CompleteCode(begins) {
			list = append(list, manual.Candidate{Word: code})
		}
	}
	return list
}

// complete answers a shell.
func complete(u *ui, app *cli.App, words []string) {
	p := describe(app)
	list, files := p.Complete(words, func(kind, begins string) []manual.Candidate { return lookUp(p, kind, begins) })
	for _, c := range list {
		if c.About != "" {
			c.Word += "\t" + c.About
		}
		u.answer("%s", c.Word)
	}
	if files {
		u.answer("%s", manual.FilesMark)
	}
}

// help shows what a person asked to be told: of a command, of a topic, or of all.
func help(u *ui, app *cli.App, about string) {
	columns := helpColumns
	if u.outTTY {
		w, _ := terminalSize(os.Stdout)
		columns = min(w, columns)
	}
	p := describe(app)
	text := p.Help(columns)
	switch i := slices.IndexFunc(p.Commands, func(c manual.Command) bool { return c.Name == about }); {
	case i >= 0:
		text = p.HelpOf(&p.Commands[i], columns)
	case about == "paths":
		c := p.Commands[slices.IndexFunc(p.Commands, func(c manual.Command) bool { return c.Name == "connect" })]
		text = manual.Seldom("The flags of expose, connect, pipe, ping and bench that say how a path between the two machines is looked for.", c.Seldom, columns)
	}
	u.answer("%s", strings.TrimRight(text, "\n"))
}

func completionCommand(u *ui, app *cli.App) *cli.Command {
	return command(u, cli.Command{
		Name:      "completion",
		Usage:     "print a script that completes adit's commands, flags and peers",
		ArgsUsage: "bash|zsh|fish",
		Description: `Print a script for a shell that completes adit's commands and flags, the values of flags, the
names of known peers, and the words of a code.

  bash:  source <(adit completion bash)
  zsh:   source <(adit completion zsh)
  fish:  adit completion fish | source`,
	}, newPlainOptions, func(_ context.Context, u *ui, o *plainOptions) error {
		script := describe(app).Script(o.arg(0), completeCommand)
		if script == "" || len(o.args) != 1 {
			return fail.Usagef("for example: adit completion bash", "completion wants the name of a shell: bash, zsh or fish")
		}
		u.answer("%s", strings.TrimRight(script, "\n"))
		return nil
	})
}

// manOptions are those of "adit man". They say what to do once, so that no variable and no file has them.
type manOptions struct {
	given
	outputOptions
	dir string
}

func newManOptions() *manOptions { return new(manOptions) }

func (o *manOptions) list() []option {
	return append([]option{{name: "dir", to: &o.dir, usage: "write all pages into `DIR`, share/man/man1 and man5 say", path: true}}, o.outputOptions.list()...)
}

func (o *manOptions) check(bad *complaints) { o.outputOptions.check(bad) }

func manCommand(u *ui, app *cli.App) *cli.Command {
	return command(u, cli.Command{
		Name:      "man",
		Usage:     "show the manual, or write its pages",
		ArgsUsage: "[COMMAND or config]",
		Description: `Show a page of the manual: of adit, of a command, or of the config file. Where standard output
is no terminal the page is printed in the language of man pages.

  adit man connect
  adit man config
  adit man --dir /usr/local/share/man    man1/adit.1, man5/adit.toml.5 and so on`,
	}, newManOptions, func(ctx context.Context, u *ui, o *manOptions) error {
		if len(o.args) > 1 {
			return fail.Usagef("for example: adit man connect", "man takes one page, not %d", len(o.args))
		}
		p := describe(app)
		if o.dir != "" {
			return writePages(u, p, o.dir)
		}
		var text string
		if o.arg(0) == "config" {
			_, text = p.ConfigPage(manDate())
		} else if _, text = p.Page(o.arg(0), manDate()); text == "" {
			return unknownCommand(app, o.arg(0))
		}
		if u.outTTY && showPage(ctx, text) {
			return nil
		}
		u.answer("%s", strings.TrimRight(text, "\n"))
		return nil
	})
}

// manDate is the day that pages are of.
func manDate() string {
	if t, err := time.Parse(time.RFC3339, builtAt()); err == nil {
		return t.Format("January 2, 2006")
	}
	return "January 1, 2026"
}

// showPage has the system's reader show a page. It reports whether there is one that did.
func showPage(ctx context.Context, text string) bool {
	for _, reader := range [][]string{{"man", "-l", "-"}, {"mandoc", "-a"}} {
		path, err := exec.LookPath(reader[0])
		if err != nil {
			continue
		}
		cmd := exec.CommandContext(ctx, path, reader[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader([]byte(text)), os.Stdout, os.Stderr
		if cmd.Run() == nil {
			return true
		}
	}
	return false
}

// writePages writes each page into the directory of its section.
func writePages(u *ui, p *manual.Program, dir string) error {
	pages := p.All(manDate())
	for name, text := range pages {
		to := filepath.Join(dir, "man"+name[len(name)-1:], name)
		err := os.MkdirAll(filepath.Dir(to), 0o755)
		if err == nil {
			err = os.WriteFile(to, []byte(text), 0o644)
		}
		if err != nil {
			return &fail.Failure{Code: fail.Other, Message: fmt.Sprintf("write the manual: %v", err), Hint: "name a directory that this user may write with --dir"}
		}
	}
	u.say("%d pages in %s", len(pages), dir)
	return nil
}
