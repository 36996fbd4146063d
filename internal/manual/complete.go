package manual

import (
	"slices"
	"strings"
)

// A Candidate is what may stand in the place of the word that is being typed.
type Candidate struct {
	Word  string
	About string // what it is; may be empty
}

// Complete returns what may stand in the place of the last of words, which are those after the program's name up to the
// cursor, and whether files may. lookUp returns what the program knows of a kind, for a word that begins so.
func (p *Program) Complete(words []string, lookUp func(kind, begins string) []Candidate) (list []Candidate, files bool) {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	before := words[:len(words)-1]
	// Flags may stand in front of the command.
	var c *Command
	var args []string
	var wants *Flag // the flag whose value comes next
	only := false   // arguments, after --
	for _, w := range before {
		switch {
		case wants != nil:
			wants = nil
		case only:
			args = append(args, w)
		case w == "--":
			only = true
		case strings.HasPrefix(w, "-") && len(w) > 1:
			name, _, has := strings.Cut(w, "=")
			if f, ok := p.flagOf(c, name); ok && f.Value != "" && !has {
				wants = &f
			}
		case c == nil:
			if c = p.command(w); c == nil && w != "help" {
				return nil, false
			}
			if w == "help" {
				return p.begin(p.names(), last), false
			}
		default:
			args = append(args, w)
		}
	}
	if c != nil && len(args) > 0 {
		if e := c.expect(args[:1]); e.Command && (only || len(args) > 1) {
			if len(args) == 1 {
				return p.begin(plain(e.Words), last), false
			}
			return p.Complete(append(args[1:len(args):len(args)], last), lookUp)
		}
	}
	name, value, has := strings.Cut(last, "=")
	switch {
	case wants != nil:
		return p.values(*wants, last, "", lookUp)
	case !only && has && strings.HasPrefix(last, "-"):
		if f, ok := p.flagOf(c, name); ok {
			return p.values(f, value, name+"=", lookUp)
		}
		return nil, false
	case c == nil:
		return p.begin(p.names(), last), false
	case !only && strings.HasPrefix(last, "-"):
		return p.begin(c.flagNames(), last), false
	}
	e := c.expect(args)
	list = p.begin(plain(e.Words), last)
	if e.Kind != "" {
		list = append(list, lookUp(e.Kind, last)...)
	}
	return list, e.Files
}

func (c *Command) expect(args []string) Expected {
	if c.Expect == nil {
		return Expected{}
	}
	return c.Expect(args)
}

// flagOf finds a flag of a command, or of any where there is no command yet.
func (p *Program) flagOf(c *Command, name string) (Flag, bool) {
	if c != nil {
		return c.flag(name)
	}
	for i := range p.Commands {
		if f, ok := p.Commands[i].flag(name); ok {
			return f, true
		}
	}
	return Flag{}, false
}

// values completes the value of a flag; head is what stands in front of it in the same word.
func (p *Program) values(f Flag, begins, head string, lookUp func(kind, begins string) []Candidate) ([]Candidate, bool) {
	list := p.begin(plain(f.Values), begins)
	if f.Name == "signal" {
		list = append(list, lookUp("signal", begins)...)
	}
	for i := range list {
		list[i].Word = head + list[i].Word
	}
	return list, f.Path
}

func (p *Program) names() []Candidate {
	var list []Candidate
	for _, c := range p.Commands {
		list = append(list, Candidate{c.Name, c.Summary})
	}
	return list
}

func (c *Command) flagNames() []Candidate {
	var list []Candidate
	for _, f := range c.all() {
		about, _, _ := strings.Cut(f.Usage, ";")
		for _, n := range slices.Backward(f.dashed()) {
			list = append(list, Candidate{n, about})
		}
	}
	return append(list, Candidate{"--help", "show what it takes"})
}

func plain(words []string) []Candidate {
	var list []Candidate
	for _, w := range words {
		list = append(list, Candidate{Word: w})
	}
	return list
}

func (p *Program) begin(list []Candidate, with string) []Candidate {
	return slices.DeleteFunc(list, func(c Candidate) bool { return !strings.HasPrefix(c.Word, with) })
}
