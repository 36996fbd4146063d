// Package manual writes what is said about a program and its commands in all the forms that there are: help on a terminal,
// man pages, and what shells complete. All come from one description; it knows no parser of flags.
package manual

// A Program is a program with commands.
type Program struct {
	Name    string
	Summary string // the beginning of a sentence, in lower case
	Intro   string // paragraphs; examples are indented
	Version string

	Commands []Command
	Tables   []Table // of the config file beside those of flags
}

// A Command is one of a program's commands.
type Command struct {
	Name        string
	Summary     string
	Args        string // what follows the name, in the form of a synopsis
	Description string // paragraphs; examples are indented
	Flags       []Flag
	Seldom      []Flag                       // those that help names, and only the man page explains
	Expect      func(args []string) Expected // what may come after these arguments; nil is nothing
}

// A Flag is one flag of a command.
type Flag struct {
	Name, Short string
	Value       string // what stands for its value; empty for a switch
	Usage       string
	Default     string
	Values      []string // what may be completed
	Path        bool     // a file may be completed
	Variable    string   // empty if there is none
	Key         string   // in the config file; empty if there is none
}

// A Table is a table of the config file that no flags stand for.
type Table struct{ Name, Description string }

// An Expected says what may come next on a command line.
type Expected struct {
	Words   []string
	Kind    string // of what the program looks up by itself, such as the names of peers; empty if nothing
	Files   bool
	Command bool // a command of the program, with what belongs to it
}

// dashed writes the names of a flag as they are typed, the short one first.
func (f Flag) dashed() []string {
	if f.Short != "" {
		return []string{"-" + f.Short, "--" + f.Name}
	}
	return []string{"--" + f.Name}
}

func (p *Program) command(name string) *Command {
	for i := range p.Commands {
		if p.Commands[i].Name == name {
			return &p.Commands[i]
		}
	}
	return nil
}

func (c *Command) all() []Flag { return append(append([]Flag(nil), c.Flags...), c.Seldom...) }

func (c *Command) flag(name string) (Flag, bool) {
	for _, f := range c.all() {
		for _, n := range f.dashed() {
			if n == name {
				return f, true
			}
		}
	}
	return Flag{}, false
}
