package suggest

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	known := []string{"signal", "stun", "port", "timeout", "json"}
	for in, want := range map[string]string{
		"singal": "signal", "signall": "signal", "prot": "port", "xyz": "", "timeuot": "timeout", "": "",
		strings.Repeat("signal", 100): "",
	} {
		if got := Nearest(in, known); got != want {
			t.Errorf("%.20q: %q, want %q", in, got, want)
		}
	}
}
