package cmd

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"adit/internal/event"
	"adit/internal/fail"
)

// screen is a ui on a pretended terminal or on pipes.
func screen(change func(*ui)) (u *ui, out, errOut *strings.Builder) {
	out, errOut = new(strings.Builder), new(strings.Builder)
	u = &ui{out: out, err: errOut, width: func() int { return 40 }}
	if change != nil {
		change(u)
	}
	return u, out, errOut
}

var up = event.Event{Name: event.Up, Time: time.Unix(0, 0), Path: "direct", Local: "host 10.0.0.1:5", Remote: "srflx 192.0.2.1:7", RTT: 31.2}

func TestPlainLines(t *testing.T) {
	u, out, errOut := screen(func(u *ui) {
		u.onCode = func(c string) string { return "adit connect " + c }
	})
	for _, e := range []event.Event{
		{Name: event.Gathering}, {Name: event.Code, Code: "7341-orbit-copper-ladder"}, {Name: event.Checking}, up,
		{Name: event.Words, Words: []string{"a", "b", "c", "d"}},
		{Name: event.Listening, Addr: "127.0.0.1:2222", Target: "localhost:22"},
		{Name: event.Stream, State: "open", Target: "localhost:22"},
		{Name: event.Stream, State: "refused", Target: "db:5432", Message: "not offered"},
		{Name: event.Interrupted}, {Name: event.Closed, Side: event.Peer}, {Name: event.Closed},
	} {
		u.event(e)
	}
	if got, want := out.String(), "7341-orbit-copper-ladder\n"; got != want {
		t.Errorf("standard output %q, want %q", got, want)
	}
	want := `finding this machine's addresses
On the other machine: adit connect 7341-orbit-copper-ladder
The code works once, for ten minutes.
waiting for the other side
trying paths to the peer
connected (direct, 31 ms): host 10.0.0.1:5 ↔ srflx 192.0.2.1:7
words: a b c d – the same on both screens? If not, somebody sits in between: stop.
127.0.0.1:2222 → localhost:22
refused db:5432: not offered
interrupted: nothing comes from the peer; waiting for it
closed: the other side ended the session
`
	if got := errOut.String(); got != want {
		t.Errorf("standard error:\n%s\nwant:\n%s", got, want)
	}
}

func TestQuiet(t *testing.T) {
	u, out, errOut := screen(func(u *ui) { u.quiet = true; u.redraw = true })
	u.event(event.Event{Name: event.Gathering})
	u.event(up)
	u.event(event.Event{Name: event.Closed})
	u.say("hello")
	if out.Len()+errOut.Len() > 0 {
		t.Errorf("got %q and %q, want nothing", out, errOut)
	}
	u.fail(&fail.Failure{Code: fail.NoPath, Message: "no path", Hint: "try again"})
	if got, want := errOut.String(), "adit: no path\n      try again\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestStatusLine(t *testing.T) {
	u, _, errOut := screen(func(u *ui) { u.redraw = true })
	u.event(event.Event{Name: event.Gathering})
	u.say("a line")
	const clear = "\r\x1b[K"
	status := "finding this machine's addresses …"
	if got, want := errOut.String(), status+clear+"a line\n"+status; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	errOut.Reset()
	u.width = func() int { return 10 }
	u.event(event.Event{Name: event.Checking})
	if got, want := errOut.String(), clear+"trying p…"; got != want {
		t.Errorf("narrow: got %q, want %q", got, want)
	}
	errOut.Reset()
	u.done()
	u.done()
	if got := errOut.String(); got != clear {
		t.Errorf("done: got %q, want %q once", got, clear)
	}
}

func TestToken(t *testing.T) {
	token := event.Event{Name: event.Token, Token: "adit1abc"}
	u, out, errOut := screen(func(u *ui) { u.outTTY = true; u.onToken = "Paste this:" })
	u.event(token)
	if got, want := errOut.String(), "Paste this:\n\nadit1abc\n\n"; got != want || out.Len() > 0 {
		t.Errorf("on a terminal: %q and %q, want %q", out, got, want)
	}
	u, out, errOut = screen(func(u *ui) { u.dataOut = true; u.onToken = "Paste this:" })
	u.event(token)
	if got, want := errOut.String(), "Paste this:\n\nadit1abc\n\n"; got != want || out.Len() > 0 {
		t.Errorf("with data on standard output: %q and %q, want %q", out, got, want)
	}
}

func TestJSON(t *testing.T) {
	u, out, errOut := screen(func(u *ui) { u.json = true; u.redraw = true })
	u.event(event.Event{Name: event.Code, Code: "7-a-b-c"})
	u.event(up)
	u.say("not for scripts")
	u.prompt("nor this?")
	u.fail(&fail.Failure{Code: fail.Gone, Message: "the peer is gone", Hint: "look"})
	if errOut.Len() > 0 {
		t.Errorf("standard error %q, want nothing", errOut)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 3 {
		t.Fatalf("got %d lines, want 3: %q", len(lines), out)
	}
	want := []map[string]any{
		{"event": "code", "code": "7-a-b-c"},
		{"event": "up", "path": "direct", "local": "host 10.0.0.1:5", "remote": "srflx 192.0.2.1:7", "rtt_ms": 31.2},
		{"event": "error", "code": 8.0, "message": "the peer is gone", "hint": "look"},
	}
	for i, l := range lines {
		var got map[string]any
		if err := json.Unmarshal([]byte(l), &got); err != nil {
			t.Fatal(err)
		}
		if _, err := time.Parse(time.RFC3339, got["time"].(string)); err != nil {
			t.Error(err)
		}
		delete(got, "time")
		if len(got) != len(want[i]) {
			t.Errorf("line %d: %v, want %v", i, got, want[i])
		}
		for k, v := range want[i] {
			if got[k] != v {
				t.Errorf("line %d: %s is %v, want %v", i, k, got[k], v)
			}
		}
	}
	u.dataOut = true
	out.Reset()
	u.event(up)
	if out.Len() > 0 || errOut.Len() == 0 {
		t.Error("with data on standard output the events do not go to standard error")
	}
}

func TestColour(t *testing.T) {
	u, _, errOut := screen(func(u *ui) { u.colour = true })
	u.event(up)
	if !strings.HasPrefix(errOut.String(), "\x1b[32mconnected\x1b[0m") {
		t.Errorf("got %q", errOut)
	}
}

func TestFailureOf(t *testing.T) {
	if f := failureOf(nil); f != nil {
		t.Errorf("nil: %+v", f)
	}
	if f := failureOf(errInterrupted); f.Code != fail.Interrupted {
		t.Errorf("interrupted: %+v", f)
	}
	if f := failureOf(errors.New("x")); f.Code != fail.Other || f.Hint == "" {
		t.Errorf("other: %+v", f)
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
	u.event(event.Event{Name: event.Code, Code: "7341-orbit-copper-ladder"})
	u.event(up)
	u.event(event.Event{Name: event.Words, Words: []string{"otter", "cobalt", "lantern", "fig"}})
	u.done()
	u.fail(&fail.Failure{Code: fail.NoPath, Message: "no path: this machine has no address to be reached at", Hint: "connect it to a network, then run the command again"})
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
adit connect 7341-orbit-copper-ladder --signal http://meet.example.org
The code works once, for ten minutes.
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
