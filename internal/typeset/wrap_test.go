package typeset

import (
	"testing"
)

func TestWrap(t *testing.T) {
	for _, test := range []struct{ name, in, indent, want string }{
		{"it fits", "ten column", "", "ten column"},
		{"at spaces", "one two three four", "", "one two\nthree four"},
		{"a long word stays whole", "see 192.168.100.100:50312 now", "", "see\n192.168.100.100:50312\nnow"},
		{"indented", "ab: one two three", "    ", "ab: one\n    two\n    three"},
		{"spaces stay", "a   b     c", "", "a   b\nc"},
		{"colours take no room", "\x1b[1mone\x1b[0m two \x1b[32mthree\x1b[0m", "", "\x1b[1mone\x1b[0m two\n\x1b[32mthree\x1b[0m"},
		{"letters, not bytes", "öäü öäü öä", "", "öäü öäü öä"},
		{"spaces at the start", "      one two", "      ", "      one\n      two"},
		{"nothing", "", "", ""},
	} {
		if got := Wrap(test.in, test.indent, 10); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestFit(t *testing.T) {
	for n, want := range map[int]string{-1: "", 0: "", 1: "…", 2: "ä…", 3: "äöü", 9: "äöü"} {
		if got := Fit("äöü", n); got != want {
			t.Errorf("%d columns: %q, want %q", n, got, want)
		}
	}
}
