package cmd

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

const appHelp = `adit joins two machines behind NATs by a direct, encrypted path and forwards
ports over it.

  adit expose 22         offer this machine's port 22, and print how to connect
  adit connect -L 2222   join, and forward local port 2222 to it

Commands:
{{range .VisibleCommands}}  {{printf "%-12s" .Name}}{{.Usage}}
{{end}}
"adit COMMAND --help" shows a command's flags and examples.
`

const (
	helpColumns = 80
	flagColumns = 29 // in front of what a flag does
)

// helpOf writes a command's help: what it does, examples, flags. It is fixed text, no template.
func helpOf(c *cli.Command) string {
	var b strings.Builder
	b.WriteString(filled(c.Description))
	usage := "Usage: adit " + c.Name
	if c.ArgsUsage != "" {
		usage += " " + c.ArgsUsage
	}
	flags := c.VisibleFlags()
	if len(flags) > 0 {
		usage += " [flags]"
	}
	fmt.Fprintf(&b, "\n%s\n", wrap(usage, "            ", helpColumns))
	if len(flags) == 0 {
		return b.String()
	}
	b.WriteString("\nFlags:\n")
	for _, f := range flags {
		left, usage := flagHelp(f)
		line := fmt.Sprintf("  %-*s %s", flagColumns-3, left, usage)
		b.WriteString(wrap(line, strings.Repeat(" ", flagColumns), helpColumns) + "\n")
	}
	if !deed(c.Name) {
		f := flags[0]
		fmt.Fprintf(&b, "\n%s\n", wrap(fmt.Sprintf("Each flag has a variable, as --%s has %s, and all but --config a key in the config file.",
			f.Names()[0], f.(cli.DocGenerationFlag).GetEnvVars()[0]), "", helpColumns))
	}
	return b.String()
}

// filled breaks the paragraphs of a text into lines. Examples, which are indented, stay as they are.
func filled(text string) string {
	var b strings.Builder
	var words []string
	end := func() {
		if len(words) > 0 {
			b.WriteString(wrap(strings.Join(words, " "), "", helpColumns) + "\n")
			words = nil
		}
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if line != "" && line[0] != ' ' {
			words = append(words, line)
			continue
		}
		end()
		b.WriteString(line + "\n")
	}
	end()
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
