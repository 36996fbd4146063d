package manual

import (
	"slices"
	"strings"

	"adit/internal/typeset"
)

// proseColumns leaves room for what escapes add to a line.
const proseColumns = 62

// Page returns a man page in the mdoc language: that of the program for "", else that of a command. date is the day of
// the release, as "January 5, 2026".
func (p *Program) Page(command, date string) (name, text string) {
	w := &page{}
	if command == "" {
		w.head(date, p.Name, "1", p.Summary)
		w.line(".Sh SYNOPSIS")
		w.line(".Nm")
		w.line(".Ar command")
		w.line(".Op Ar argument ...")
		w.line(".Op Ar flags")
		w.line(".Sh DESCRIPTION")
		w.text(p.Intro)
		w.line(".Pp")
		w.line("The commands are:")
		w.line(".Bl -tag -width completion")
		for _, c := range p.Commands {
			w.line(".It Cm " + c.Name)
			w.sentence(c.Summary)
		}
		w.line(".El")
		w.line(".Pp")
		w.line("Each has a page of its own.")
		w.files(p, false)
		w.line(".Sh SEE ALSO")
		for _, n := range slices.Sorted(slices.Values(p.Names())) {
			w.line(".Xr " + p.Name + "-" + n + " 1 ,")
		}
		w.line(".Xr " + p.Name + ".toml 5")
		return p.Name + ".1", w.String()
	}
	c := p.command(command)
	if c == nil {
		return "", ""
	}
	w.head(date, p.Name+"-"+c.Name, "1", c.Summary)
	w.line(".Sh SYNOPSIS")
	w.line(".Nm " + p.Name)
	w.line(".Cm " + c.Name)
	if c.Args != "" {
		w.line(".Ar " + escaped(c.Args) + `\&`)
	}
	w.line(".Op Ar flags")
	w.line(".Sh DESCRIPTION")
	w.text(c.Description)
	w.line(".Pp")
	w.line("The flags are:")
	w.line(".Bl -tag -width Ds")
	for _, f := range c.all() {
		w.flag(f)
	}
	w.line(".El")
	w.files(p, c.Name == "peers")
	w.line(".Sh SEE ALSO")
	w.line(".Xr " + p.Name + " 1 ,")
	w.line(".Xr " + p.Name + ".toml 5")
	return p.Name + "-" + c.Name + ".1", w.String()
}

// ConfigPage returns the man page of the config file.
func (p *Program) ConfigPage(date string) (name, text string) {
	w := &page{}
	w.head(date, p.Name+".toml", "5", "the configuration file of "+p.Name)
	w.line(".Sh DESCRIPTION")
	w.line("The file is written in TOML.")
	w.line("A flag overrules its variable, the variable overrules the file.")
	w.line("A key that " + p.Name + " does not know is an error with its line;")
	w.line(".Ql " + p.Name + " config check")
	w.line("shows all that is wrong, and what is in force.")
	seen := map[string]bool{}
	for _, t := range p.tables() {
		if t == "" {
			w.line(".Ss Keys at the top")
		} else {
			w.line(".Ss Keys in the table " + t)
		}
		w.line(".Bl -tag -width Ds")
		for _, c := range p.Commands {
			for _, f := range c.all() {
				table, key, in := strings.Cut(f.Key, ".")
				if !in {
					table, key = "", f.Key
				}
				if f.Key == "" || table != t || seen[f.Key] {
					continue
				}
				seen[f.Key] = true
				w.line(".It Sy " + key)
				w.sentence(f.Usage)
				if f.Default != "" {
					w.sentence("default: " + f.Default)
				}
				w.line("The variable is")
				w.line(".Ev " + f.Variable + " .")
			}
		}
		w.line(".El")
	}
	for _, t := range p.Tables {
		w.line(".Ss Tables " + strings.Trim(t.Name, "[]"))
		w.text(t.Description)
	}
	w.line(".Sh SEE ALSO")
	w.line(".Xr " + p.Name + " 1")
	return p.Name + ".toml.5", w.String()
}

// tables returns the tables of flags, the top of the file first.
func (p *Program) tables() []string {
	list := []string{""}
	seen := map[string]bool{}
	for _, c := range p.Commands {
		for _, f := range c.all() {
			if table, _, in := strings.Cut(f.Key, "."); in && !seen[table] {
				seen[table] = true
				list = append(list, table)
			}
		}
	}
	return list
}

// A page is mdoc text in the making.
type page struct{ strings.Builder }

func (w *page) line(s string) { w.WriteString(s + "\n") }

func (w *page) head(date, name, section, summary string) {
	w.line(".Dd " + date)
	w.line(".Dt " + strings.ToUpper(name) + " " + section)
	w.line(".Os")
	w.line(".Sh NAME")
	w.line(".Nm " + name)
	w.line(".Nd " + escaped(summary))
}

func (w *page) files(p *Program, itself bool) {
	w.line(".Sh FILES")
	w.line(".Bl -tag -width Ds")
	w.line(".It Pa ~/.config/" + p.Name + "/config.toml")
	w.line("settings, see")
	w.line(".Xr " + p.Name + ".toml 5")
	w.line(".It Pa ~/.config/" + p.Name + "/peers.toml")
	if itself {
		w.line("the known peers")
	} else {
		w.line("the known peers, see")
		w.line(".Xr " + p.Name + "-peers 1")
	}
	w.line(".It Pa ~/.local/state/" + p.Name + "/key")
	w.line("the key of this machine")
	w.line(".El")
}

func (w *page) flag(f Flag) {
	item := ".It"
	if f.Short != "" {
		item += " Fl " + f.Short + " ,"
	}
	item += " Fl \\-" + f.Name
	if f.Value != "" {
		item += " Ar " + escaped(f.Value)
	}
	w.line(item)
	w.sentence(f.Usage)
	if f.Value != "" && f.Default != "" {
		w.sentence("default: " + f.Default)
	}
	if f.Variable != "" {
		w.line("The variable is")
		w.line(".Ev " + f.Variable + " .")
	}
}

// sentence writes words as a sentence.
func (w *page) sentence(s string) {
	if s == "" {
		return
	}
	w.prose(strings.ToUpper(s[:1]) + s[1:] + ".")
}

// prose writes a sentence in lines that are not too long.
func (w *page) prose(s string) {
	for line := range strings.SplitSeq(typeset.Wrap(s, "", proseColumns), "\n") {
		w.line(guarded(escaped(line)))
	}
}

// text writes paragraphs, a sentence a line, and examples as they are.
func (w *page) text(s string) {
	var words []string
	first, shown := true, false
	end := func() {
		if len(words) == 0 {
			return
		}
		if !first {
			w.line(".Pp")
		}
		first = false
		for _, sentence := range strings.SplitAfter(strings.Join(words, " "), ". ") {
			w.prose(strings.TrimSpace(sentence))
		}
		words = nil
	}
	for line := range strings.Lines(s) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, " "):
			end()
			if !shown {
				w.line(".Bd -literal -offset indent")
				shown = true
			}
			w.line(guarded(escaped(strings.TrimPrefix(line, "  "))))
			continue
		case line == "":
			end()
		default:
			words = append(words, line)
		}
		if shown && line != "" {
			w.line(".Ed")
			shown = false
		}
	}
	end()
	if shown {
		w.line(".Ed")
	}
}

// escaped writes text so that mdoc shows it as it is.
func escaped(s string) string {
	return strings.NewReplacer(`\`, `\e`, "'", `\(aq`, "-", `\-`, "`", "\\(ga", "…", "\\&...", "–", `\(en`, "→", `\(->`, "↔", `\(<>`).Replace(s)
}

// guarded keeps a line from being taken for a request.
func guarded(s string) string {
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, `\(aq`) {
		return `\&` + s
	}
	return s
}

// Names returns the commands that have pages.
func (p *Program) Names() []string {
	var names []string
	for _, c := range p.Commands {
		names = append(names, c.Name)
	}
	return names
}

// All returns every page by the name of its file.
func (p *Program) All(date string) map[string]string {
	pages := make(map[string]string)
	add := func(name, text string) { pages[name] = text }
	add(p.Page("", date))
	add(p.ConfigPage(date))
	for _, n := range p.Names() {
		add(p.Page(n, date))
	}
	return pages
}
