package cmd

import "testing"

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
	for _, x := range [][2]string{{"", ""}, {"16MiB", ""}, {"", "64K"}, {"1M", "4GiB"}} {
		if b, err := flowBudget(x[0], x[1]); err != nil || b == nil {
			t.Errorf("%q: %v", x, err)
		}
	}
	for _, x := range [][2]string{{"1K", ""}, {"", "0"}, {"", "-1"}, {"", "64MB"}, {"", "x"}} {
		if _, err := flowBudget(x[0], x[1]); err == nil || failureOf(err).code != exitUsage {
			t.Errorf("%q: %v, want a wrong command line", x, err)
		}
	}
}
