package cmd

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

// TestHelpFits: what "adit help" prints fits a terminal of 80 columns, and ends in no loose end.
func TestHelpFits(t *testing.T) {
	u, _, _ := screen(func(*ui) {})
	app := newApp(u)
	texts := map[string]string{}
	var b strings.Builder
	cli.HelpPrinter(&b, appHelp, app)
	texts["adit"] = b.String()
	for _, c := range app.Commands {
		texts[c.Name] = c.CustomHelpTemplate
	}
	for name, text := range texts {
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if n := utf8.RuneCountInString(line); n > helpColumns {
				t.Errorf("%s: a line of %d columns: %s", name, n, line)
			}
			if line != strings.TrimRight(line, " ") {
				t.Errorf("%s: spaces at the end of %q", name, line)
			}
		}
		if !strings.HasSuffix(text, "\n") || strings.HasSuffix(text, "\n\n") || strings.Contains(text, "\n\n\n") {
			t.Errorf("%s: empty lines are not where they belong:\n%s", name, text)
		}
	}
}

// TestHelpExamples: each example of a help text is a command line that adit reads: its flags exist.
func TestHelpExamples(t *testing.T) {
	u, _, _ := screen(func(*ui) {})
	for _, c := range newApp(u).Commands {
		for line := range strings.Lines(c.Description) {
			if !strings.HasPrefix(line, "  adit ") {
				continue
			}
			example, _, _ := strings.Cut(strings.TrimSpace(line), "  ") // then comes what it does
			example, _, _ = strings.Cut(example, " | ")
			if _, err := permute(newApp(u), strings.Fields(example)[1:]); err != nil {
				t.Errorf("%s: %s: %v", c.Name, example, err)
			}
		}
	}
}
