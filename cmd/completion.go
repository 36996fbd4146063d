package cmd

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

func completionCommand(u *ui, app *cli.App) *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a script that completes adit's commands and flags",
		ArgsUsage: "bash|zsh|fish",
		Description: `Print a script for a shell that completes adit's commands and flags.

  bash:  source <(adit completion bash)
  zsh:   source <(adit completion zsh)
  fish:  adit completion fish | source`,
		Action: action(u, func(_ context.Context, c *cli.Context) error {
			write, known := map[string]func(*cli.App) string{
				"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion,
			}[c.Args().First()]
			if !known || c.NArg() != 1 {
				return usagef("for example: adit completion bash", "completion wants the name of a shell: bash, zsh or fish")
			}
			u.answer("%s", strings.TrimRight(write(app), "\n"))
			return nil
		}),
	}
}

// dashed returns a command's flags as they are typed.
func dashed(c *cli.Command) []string {
	var out []string
	for _, f := range c.VisibleFlags() {
		if f.Names()[0] == "help" {
			continue // added to a command only once it runs
		}
		for _, n := range f.Names() {
			if len(n) == 1 {
				out = append(out, "-"+n)
			} else {
				out = append(out, "--"+n)
			}
		}
	}
	return append(out, "--help")
}

// argumentsOf is what may stand for a command's positional arguments.
func argumentsOf(c *cli.Command) string {
	switch c.Name {
	case "completion":
		return "bash zsh fish"
	case "peers":
		return "list add rename remove"
	case "config":
		return "check"
	}
	return ""
}

func bashCompletion(app *cli.App) string {
	var b strings.Builder
	var names []string
	for _, c := range app.Commands {
		names = append(names, c.Name)
	}
	b.WriteString("_adit() {\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n")
	b.WriteString("\tif [ \"$COMP_CWORD\" = 1 ]; then\n")
	fmt.Fprintf(&b, "\t\tCOMPREPLY=($(compgen -W %q -- \"$cur\"))\n\t\treturn\n\tfi\n", strings.Join(names, " "))
	b.WriteString("\tcase $prev in\n\t--config|--tls-cert|--tls-key) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n")
	b.WriteString("\t--signal) COMPREPLY=($(compgen -W 'paste http:// https:// exec:' -- \"$cur\")); return ;;\n\tesac\n")
	b.WriteString("\tcase ${COMP_WORDS[1]} in\n")
	for _, c := range app.Commands {
		words := strings.TrimSpace(argumentsOf(c) + " " + strings.Join(dashed(c), " "))
		fmt.Fprintf(&b, "\t%s) COMPREPLY=($(compgen -W %q -- \"$cur\")) ;;\n", c.Name, words)
	}
	b.WriteString("\tesac\n}\ncomplete -F _adit adit\n")
	return b.String()
}

func zshCompletion(app *cli.App) string {
	var b strings.Builder
	b.WriteString("#compdef adit\n_adit() {\n\tif (( CURRENT == 2 )); then\n\t\tlocal -a commands=(\n")
	for _, c := range app.Commands {
		fmt.Fprintf(&b, "\t\t\t%s\n", quoted(c.Name+":"+c.Usage))
	}
	b.WriteString("\t\t)\n\t\t_describe command commands\n\t\treturn\n\tfi\n\tcase $words[2] in\n")
	for _, c := range app.Commands {
		fmt.Fprintf(&b, "\t%s) compadd -- %s ;;\n", c.Name, strings.TrimSpace(argumentsOf(c)+" "+strings.Join(dashed(c), " ")))
	}
	b.WriteString("\tesac\n}\ncompdef _adit adit\n")
	return b.String()
}

func fishCompletion(app *cli.App) string {
	var b strings.Builder
	b.WriteString("complete -c adit -f\n")
	for _, c := range app.Commands {
		fmt.Fprintf(&b, "complete -c adit -n __fish_use_subcommand -a %s -d %s\n", c.Name, quoted(c.Usage))
		seen := "'__fish_seen_subcommand_from " + c.Name + "'"
		for _, f := range c.VisibleFlags() {
			line := "complete -c adit -n " + seen
			for _, n := range f.Names() {
				if len(n) == 1 {
					line += " -s " + n
				} else {
					line += " -l " + n
				}
			}
			if takesValue(f) {
				line += " -r"
			}
			if d, ok := f.(cli.DocGenerationFlag); ok {
				line += " -d " + quoted(strings.ReplaceAll(d.GetUsage(), "`", ""))
			}
			b.WriteString(line + "\n")
		}
		if a := argumentsOf(c); a != "" {
			fmt.Fprintf(&b, "complete -c adit -n %s -a %s\n", seen, quoted(a))
		}
	}
	return b.String()
}
