// Package strict reads what package metrics writes, as strictly as the format allows. It is for tests.
package strict

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

var (
	helpLine   = regexp.MustCompile(`^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) ((?:[^\\]|\\\\|\\n)+)$`)
	typeLine   = regexp.MustCompile(`^# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge)$`)
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\S+)$`)
	label      = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\\\|\\n|\\")*)"(,|$)`)
)

// Check reads a page as strictly as the format allows, and more so: each family has its help, its type
// and samples in that order, comes once, and repeats no set of labels; a counter ends in _total and is
// not negative. It is what tests hold pages to.
func Check(page string) error {
	if !utf8.ValidString(page) {
		return errors.New("not UTF-8")
	}
	if page == "" || !strings.HasSuffix(page, "\n") {
		return errors.New("the last line has no end")
	}
	families := map[string]bool{}
	samples := map[string]bool{}
	var name, kind string
	for i, line := range strings.Split(strings.TrimSuffix(page, "\n"), "\n") {
		wrong := func(what string) error { return fmt.Errorf("line %d, %q: %s", i+1, line, what) }
		if m := helpLine.FindStringSubmatch(line); m != nil {
			if families[m[1]] {
				return wrong("this family was there before")
			}
			name, kind = m[1], ""
			families[name] = true
			continue
		}
		if m := typeLine.FindStringSubmatch(line); m != nil {
			if m[1] != name || kind != "" {
				return wrong("a type without its help")
			}
			if kind = m[2]; (kind == "counter") != strings.HasSuffix(name, "_total") {
				return wrong("a counter is what ends in _total")
			}
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			return wrong("neither help, type nor sample")
		}
		if m[1] != name || kind == "" {
			return wrong("a sample outside its family")
		}
		if samples[m[1]+m[2]] {
			return wrong("this sample was there before")
		}
		samples[m[1]+m[2]] = true
		if err := checkLabels(m[2]); err != nil {
			return wrong(err.Error())
		}
		v, err := strconv.ParseFloat(m[3], 64)
		if err != nil || kind == "counter" && !(v >= 0) {
			return wrong("no value for a " + kind)
		}
	}
	return nil
}

func checkLabels(s string) error {
	if s == "" {
		return nil
	}
	s = strings.TrimSuffix(strings.TrimPrefix(s, "{"), "}")
	seen := map[string]bool{}
	for s != "" {
		m := label.FindStringSubmatch(s)
		if m == nil {
			return fmt.Errorf("no labels: %q", s)
		}
		if seen[m[1]] {
			return fmt.Errorf("label %s twice", m[1])
		}
		seen[m[1]] = true
		s = s[len(m[0]):]
		if m[3] == "," && s == "" {
			return errors.New("a comma too many")
		}
	}
	return nil
}
