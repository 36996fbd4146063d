package cmd

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// TestHelpFits: help fits terminals of several widths, and ends in no loose end. A word or an address alone may be longer.
func TestHelpFits(t *testing.T) {
	u, _, _ := screen(func(*ui) {})
	p := describe(newApp(u))
	for _, columns := range []int{40, 80, 200} {
		texts := map[string]string{"adit": p.Help(columns)}
		for i, c := range p.Commands {
			texts[c.Name] = p.HelpOf(&p.Commands[i], columns)
		}
		for name, text := range texts {
			for line := range strings.Lines(text) {
				line = strings.TrimSuffix(line, "\n")
				if n := utf8.RuneCountInString(line); n > columns && strings.Contains(strings.TrimSpace(line), " ") {
					t.Errorf("%s at %d: a line of %d columns: %s", name, columns, n, line)
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
