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
