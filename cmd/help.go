package cmd

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

const appHelp = `adit joins two machines behind NATs by a direct, encrypted path and forwards ports over it.

  adit expose 22           offer this machine's port 22, and print how to connect
  adit connect -L 2222     join, and forward local port 2222 to it

Commands:
{{range .VisibleCommands}}  {{printf "%-12s" .Name}}{{.Usage}}
{{end}}
"adit COMMAND --help" shows a command's flags and examples.
`

// helpOf writes a command's help: what it does, examples, flags. It is fixed text, no template.
func helpOf(c *cli.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage: adit %s", c.Description, c.Name)
	if c.ArgsUsage != "" {
		b.WriteString(" " + c.ArgsUsage)
	}
	if flags := c.VisibleFlags(); len(flags) > 0 {
		b.WriteString(" [flags]\n\nFlags:\n")
		for _, f := range flags {
			left, usage := flagHelp(f)
			fmt.Fprintf(&b, "  %-26s %s\n", left, usage)
		}
		if !deed(c.Name) {
			fmt.Fprintf(&b, "\nEach flag has a variable, --port for example %s, and a key in the config file.\n", variable("", "port"))
		}
	} else {
		b.WriteString("\n")
	}
	return b.String()
}

// flagHelp returns a flag as it is typed, and what it does. A word in back quotes stands for its value.
func flagHelp(f cli.Flag) (left, usage string) {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		panic("cmd: a flag without a description")
	}
	before, rest, named := strings.Cut(d.GetUsage(), "`")
	value, after, _ := strings.Cut(rest, "`")
	usage = before + value + after
	names := slices.Clone(f.Names())
	slices.SortFunc(names, func(a, b string) int { return len(a) - len(b) })
	for i, n := range names {
		if names[i] = "--" + n; len(n) == 1 {
			names[i] = "-" + n
		}
	}
	left = strings.Join(names, ", ")
	if len(f.Names()[0]) > 1 && len(names) == 1 {
		left = "    " + left
	}
	if takesValue(f) {
		if !named {
			value = "VALUE"
		}
		left += " " + value
	}
	if text := d.GetDefaultText(); takesValue(f) && text != "" {
		usage += " (default: " + strings.Trim(text, `"`) + ")"
	}
	return left, usage
}
