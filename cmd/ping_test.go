package cmd

import (
	"adit/internal/typeset"
	"testing"
)

func TestDigits(t *testing.T) {
	for x, want := range map[float64]string{
		0: "0", 0.0123: "0.012", 0.5: "0.500", 1.234: "1.23", 9.994: "9.99", 9.996: "10.0", 31.24: "31.2", 99.96: "100", 1234.5: "1234",
	} {
		if got := typeset.Digits(x); got != want {
			t.Errorf("%v: %s, want %s", x, got, want)
		}
	}
}
