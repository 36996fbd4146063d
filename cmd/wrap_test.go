package cmd

import (
	"strings"
	"testing"

	"adit/internal/event"
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
		if got := wrap(test.in, test.indent, 10); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// TestNarrow holds what a terminal of 40 columns shows.
func TestNarrow(t *testing.T) {
	u, _, errOut := screen(func(u *ui) {
		u.redraw, u.outTTY = true, true
		u.onToken = `On the other machine run "adit connect" and paste this line:`
		u.onCode = func(c string) string { return "adit connect " + c + " --signal http://meet.example.org" }
	})
	u.event(event.Event{Name: event.Token, Token: "adit1" + strings.Repeat("x", 60)})
	u.prompt("Paste the line that the other side sends back, then press Enter:")
	u.event(event.Event{Name: event.Code, Code: "7341-otter-cobalt-lantern"})
	u.event(up)
	u.event(event.Event{Name: event.Words, Words: []string{"otter", "cobalt", "lantern", "fig"}})
	u.done()
	u.fail(&failure{code: exitNoPath, message: "no path: this machine has no address to be reached at", hint: "connect it to a network, then run the command again"})
	var lines []string
	for _, l := range strings.Split(errOut.String(), "\n") {
		parts := strings.Split(l, "\r\x1b[K") // what stands before it was a status line
		lines = append(lines, parts[len(parts)-1])
	}
	got := strings.Join(lines, "\n")
	want := `On the other machine run "adit connect"
and paste this line:

adit1xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx

Paste the line that the other side sends
back, then press Enter:
On the other machine:
adit connect 7341-otter-cobalt-lantern --signal http://meet.example.org
connected (direct, 31 ms): host
10.0.0.1:5 ↔ srflx 192.0.2.1:7
words: otter cobalt lantern fig – the
same on both screens? If not, somebody
sits in between: stop.
adit: no path: this machine has no
      address to be reached at
      connect it to a network, then run
      the command again
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
