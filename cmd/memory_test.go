package cmd

import (
	"adit/internal/fail"
	"testing"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "12": 12, "4K": 4 << 10, "64MiB": 64 << 20, "64 MiB": 64 << 20, "2G": 2 << 30} {
		if got, ok := parseSize(s); got != want || !ok {
			t.Errorf("%q: got %d, %v, want %d", s, got, ok, want)
		}
	}
	for _, s := range []string{"", "M", "-1M", "1.5G", "64 MB", "9999999999G", "x"} {
		if got, ok := parseSize(s); ok {
			t.Errorf("%q: got %d, want none", s, got)
		}
	}
}

func TestFlowBudget(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, x := range [][2]string{{"", ""}, {"16MiB", ""}, {"", "64K"}, {"1M", "4GiB"}} {
		if b := flowBudget(x[0], x[1]); b == nil {
			t.Errorf("%q: none", x)
		}
	}
	for _, args := range [][]string{{"--memory", "1K"}, {"--flow-memory", "0"}, {"--flow-memory", "-1"}, {"--flow-memory", "64MB"}, {"--flow-memory", "x"}} {
		if _, err := settled(t, args...); err == nil || failureOf(err).Code != fail.Usage {
			t.Errorf("%q: %v, want a wrong command line", args, err)
		}
	}
}
