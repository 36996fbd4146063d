package manual

import (
	"fmt"
	"strings"

	"adit/internal/typeset"
)

// flagColumns are what stands in front of what a flag does, where there is room for two columns.
const flagColumns = 29

// leastColumns is where there is no room any more.
const leastColumns = 60

// Help is what the program does and its commands, in lines of at most so many columns.
func (p *Program) Help(columns int) string {
	var b strings.Builder
	b.WriteString(filled(p.Intro, columns))
	b.WriteString("\nCommands:\n")
	for _, c := range p.Commands {
		b.WriteString(typeset.Wrap(fmt.Sprintf("  %-11s %s", c.Name, c.Summary), strings.Repeat(" ", min(14, columns/3)), columns) + "\n")
	}
	b.WriteString("\n" + typeset.Wrap(fmt.Sprintf(`"%s COMMAND --help" shows a command's flags and examples, "%s man" the manual.`, p.Name, p.Name), "", columns) + "\n")
	return b.String()
}

// Help is a command's help: what it does, examples and flags, in lines of at most so many columns.
func (p *Program) HelpOf(c *Command, columns int) string {
	var b strings.Builder
	b.WriteString(filled(c.Description, columns))
	usage := "Usage: " + p.Name + " " + c.Name
	if c.Args != "" {
		usage += " " + c.Args
	}
	if len(c.Flags) > 0 {
		usage += " [flags]"
	}
	fmt.Fprintf(&b, "\n%s\n", typeset.Wrap(usage, "            ", columns))
	if len(c.Flags) == 0 {
		return b.String()
	}
	b.WriteString("\nFlags:\n")
	for _, f := range c.Flags {
		b.WriteString(flagHelp(f, columns) + "\n")
	}
	if len(c.Seldom) > 0 {
		var names []string
		for _, f := range c.Seldom {
			names = append(names, "--"+f.Name)
		}
		fmt.Fprintf(&b, "\n%s\n", typeset.Wrap(fmt.Sprintf("How a path is looked for, which seldom needs a word (\"%s help paths\"): %s", p.Name, strings.Join(names, ", ")), "  ", columns))
	}
	for _, f := range c.Flags {
		if f.Variable != "" {
			fmt.Fprintf(&b, "\n%s\n", typeset.Wrap(fmt.Sprintf("Each flag has a variable, as --%s has %s, and all but --config a key in the config file.", f.Name, f.Variable), "", columns))
			break
		}
	}
	return b.String()
}

// Seldom is the help of flags that several commands have and seldom need.
func Seldom(intro string, flags []Flag, columns int) string {
	var b strings.Builder
	b.WriteString(filled(intro, columns) + "\n")
	for _, f := range flags {
		b.WriteString(flagHelp(f, columns) + "\n")
	}
	return b.String()
}

// filled breaks the paragraphs of a text into lines. Examples, which are indented, stay as they are.
func filled(text string, columns int) string {
	var b strings.Builder
	var words []string
	end := func() {
		if len(words) > 0 {
			b.WriteString(typeset.Wrap(strings.Join(words, " "), "", columns) + "\n")
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
		if columns < leastColumns && line != "" {
			line = example(line, columns)
		}
		b.WriteString(line + "\n")
	}
	end()
	return b.String()
}

// example sets what an example does below it.
func example(line string, columns int) string {
	typed, does, found := strings.Cut(strings.TrimLeft(line, " "), "  ")
	out := typeset.Wrap("  "+typed, "    ", columns)
	if found {
		out += "\n" + typeset.Wrap("      "+strings.TrimLeft(does, " "), "      ", columns)
	}
	return out
}

// flagHelp writes a flag as it is typed, and what it does.
func flagHelp(f Flag, columns int) string {
	left := strings.Join(f.dashed(), ", ")
	if f.Short == "" {
		left = "    " + left
	}
	if f.Value != "" {
		left += " " + f.Value
	}
	usage := f.Usage
	if f.Value != "" && f.Default != "" {
		usage += " (default: " + f.Default + ")"
	}
	if columns < leastColumns {
		return typeset.Wrap("  "+strings.TrimLeft(left, " "), "    ", columns) + "\n" + typeset.Wrap("      "+usage, "      ", columns)
	}
	return typeset.Wrap(fmt.Sprintf("  %-*s %s", flagColumns-3, left, usage), strings.Repeat(" ", flagColumns), columns)
}
