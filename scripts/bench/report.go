package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A sample is one figure of one run, a line of the output as JSON.
type sample struct {
	Scenario string    `json:"scenario"`
	Tool     string    `json:"tool"`
	Run      int       `json:"run"`
	Metric   string    `json:"metric"`
	Unit     string    `json:"unit"`
	Value    float64   `json:"value"`
	Raw      []float64 `json:"raw,omitempty"` // what the value was made of, where that is more than one number
	Error    string    `json:"error,omitempty"`
	Time     time.Time `json:"time"`    // when the run ended
	Version  string    `json:"version"` // what `adit version` says
	System   string    `json:"system"`  // cores, architecture and kernel
}

// system describes the machine.
func system() string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	version, _, _ := bytes.Cut(bytes.TrimSpace(kernel), []byte("-")) // without what a distributor adds
	return fmt.Sprintf("%d cores, %s, Linux %s", runtime.NumCPU(), runtime.GOARCH, version)
}

// read reads the samples of an earlier run.
func read(path string) (all []sample, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for dec := json.NewDecoder(f); ; {
		var s sample
		switch err := dec.Decode(&s); err {
		case nil:
			all = append(all, s)
		case io.EOF:
			return all, nil
		default:
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
}

// record keeps a figure. What the scenario has no row for is kept too.
func (j *job) record(metric string, value float64, raw []float64) {
	s := sample{Scenario: j.scenario, Tool: j.tool, Run: j.number, Metric: metric, Unit: units[metric], Value: value, Raw: raw}
	j.samples = append(j.samples, s)
}

func (s scenario) String() string { return s.name }
func (t tool) String() string     { return t.name }

// values returns the figures of all runs of a tool.
func values(all []sample, scenario, tool, metric string) (v []float64) {
	for _, s := range all {
		if s.Scenario == scenario && s.Tool == tool && s.Metric == metric && s.Error == "" {
			v = append(v, s.Value)
		}
	}
	return v
}

// table writes a scenario's medians, and what part or multiple of adit's each is.
func table(all []sample, sc scenario) string {
	var columns []string
	for _, t := range tools {
		if slices.ContainsFunc(all, func(s sample) bool { return s.Scenario == sc.name && s.Tool == t.name }) {
			columns = append(columns, t.name)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s.\n\n| |goal", sc.name, sc.about)
	measured := ""
	for _, c := range columns {
		fmt.Fprintf(&b, "|%s", c)
	}
	b.WriteString("|\n|---|---" + strings.Repeat("|---", len(columns)) + "|\n")
	for _, m := range append(slices.Clone(sc.metrics), metric{name: mOthers}) {
		fmt.Fprintf(&b, "|%s, %s|%s", m.name, units[m.name], m.goal)
		base := values(all, sc.name, "adit", m.name)
		for _, c := range columns {
			v := values(all, sc.name, c, m.name)
			if len(v) == 0 {
				b.WriteString("|–")
				continue
			}
			b.WriteString("|" + number(median(v)))
			if len(v) > 1 {
				fmt.Fprintf(&b, " (%s–%s)", number(slices.Min(v)), number(slices.Max(v)))
			}
			if c != "adit" && len(base) > 0 && median(base) != 0 {
				fmt.Fprintf(&b, " ×%s", number(median(v)/median(base)))
			}
		}
		b.WriteString("|\n")
	}
	failed := map[string]bool{}
	for _, s := range all {
		if s.Scenario == sc.name {
			measured = fmt.Sprintf("\n%s; %s; %s.\n", s.Version, s.System, s.Time.UTC().Format("2006-01-02 15:04 MST"))
		}
		if line := s.Tool + ": " + s.Error; s.Scenario == sc.name && s.Error != "" && !failed[line] {
			failed[line] = true
			fmt.Fprintf(&b, "\n%s\n", strings.ReplaceAll(line, "\n", " "))
		}
	}
	return b.String() + measured
}

// number writes three digits that matter.
func number(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// document puts the tables into a file, each between the two comments that name its scenario.
func document(path string, all []sample) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for _, sc := range scenarios {
		if !slices.ContainsFunc(all, func(s sample) bool { return s.Scenario == sc.name }) {
			continue
		}
		begin, end := []byte("<!-- bench "+sc.name+" -->\n"), []byte("<!-- end -->\n")
		before, rest, ok := bytes.Cut(text, begin)
		_, after, ok2 := bytes.Cut(rest, end)
		if !ok || !ok2 {
			return fmt.Errorf("%s has no place for %s: no %q and %q", path, sc.name, begin, end)
		}
		text = slices.Concat(before, begin, []byte(table(all, sc)), end, after)
	}
	return os.WriteFile(path, text, 0o644)
}
