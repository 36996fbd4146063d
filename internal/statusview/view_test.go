package statusview

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"adit/internal/control"
	"adit/internal/typeset"
)

// sample is a process with everything that a status can show.
func sample(now time.Time) []control.Status {
	return []control.Status{
		{PID: 12, Command: "serve", State: "serving", Since: now.Add(-72 * time.Hour), Listening: []control.Listener{{Addr: "[::]:8080", Target: "http"}}},
		{
			PID: 4711, Command: "connect", State: "up", Since: now.Add(-2*time.Hour - 5*time.Minute), Refused: 1,
			Listening: []control.Listener{{Addr: "127.0.0.1:2222", Target: "localhost:22"}},
			Sessions: []control.Session{{
				Peer: "home", Met: "key", Since: now.Add(-90 * time.Second), State: "interrupted",
				Path:  control.Path{Kind: "direct", Local: "host 192.0.2.1:4242", Remote: "srflx 198.51.100.7:5353", To: "198.51.100.9:1111"},
				Local: []string{"host 192.0.2.1:4242", "srflx 203.0.113.4:4242"}, Remote: []string{"srflx 198.51.100.7:5353"},
				RTT: 12.3, MinRTT: 11.04, Streams: 2, SendRate: 3.21e6, RecvRate: 999, Packet: 1444,
				Sent: 1.2e9, Received: 3400, SentPkts: 3456, Lost: 12, Resent: 15, Spurious: 2,
			}},
		},
	}
}

func TestStatusWide(t *testing.T) {
	now := time.Now()
	got := strings.Join(Lines(sample(now), 0, now), "\n")
	for _, want := range []string{
		"serve 12 · serving · since " + now.Add(-72*time.Hour).Format("2006-01-02 15:04") + " (3 d 0 h)\n  [::]:8080 → http\n\n",
		"connect 4711 · up · since " + now.Add(-125*time.Minute).Format("15:04:05") + " (2 h 5 min)\n",
		"  127.0.0.1:2222 → localhost:22\n  1 stream refused\n",
		"  home (by key) · interrupted · since ", " (1 min 30 s)\n",
		"    direct: host 192.0.2.1:4242 ↔ srflx 198.51.100.7:5353\n    packets go to 198.51.100.9:1111 now\n",
		"    round trip 12 ms, least 11 ms · 2 streams · packets of 1,444 bytes\n",
		"    sending 3.21 Mbit/s, 1.20 GB so far · receiving 999 bit/s, 3.40 kB so far\n",
		"    lost 12 of 3,456 packets (0.347 %) · sent again 15, 2 of it in vain\n",
		"    candidates here: host 192.0.2.1:4242, srflx 203.0.113.4:4242\n    candidates there: srflx 198.51.100.7:5353",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
}

// Root reads what services of other users say: none of it gets at the terminal.
func TestStatusPrintable(t *testing.T) {
	const bad = "x\x1b]0;title\a\u009b2J\r\n\u202ey\xff"
	all := []control.Status{{
		Command: bad, State: bad, Targets: []string{bad}, Listening: []control.Listener{{Addr: bad, Target: bad}},
		Sessions: []control.Session{{
			Peer: bad, Met: bad, State: bad, Path: control.Path{Kind: bad, Transport: bad, Local: bad, Remote: bad},
			Local: []string{bad}, Remote: []string{bad},
		}},
	}}
	for detail := oneLine; detail <= everything; detail++ {
		for _, line := range (&view{detail: detail}).all(all, time.Now()) {
			if got := typeset.Printable(line); got != line {
				t.Errorf("line %q, want what can be printed of it", line)
			}
		}
	}
}

func TestStatusNarrow(t *testing.T) {
	now := time.Now()
	for _, width := range []int{40, 60, 80} {
		wide := strings.Join(Lines(sample(now), 0, now), "\n")
		lines := Lines(sample(now), width, now)
		for _, l := range lines {
			if utf8.RuneCountInString(l) > width {
				t.Errorf("%d columns: %q has %d", width, l, utf8.RuneCountInString(l))
			}
		}
		if got, want := strings.Fields(strings.Join(lines, " ")), strings.Fields(wide); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%d columns: something is missing:\n%s", width, strings.Join(lines, "\n"))
		}
	}
	if got := Lines(nil, 12, now); len(got) != 3 {
		t.Errorf("nothing running: %q", got)
	}
}

// TestStatusFitted: a screen that is low shows less of each session, then counts the lines that are left out.
func TestStatusFitted(t *testing.T) {
	now := time.Now()
	full := Lines(sample(now), 80, now)
	for _, test := range []struct {
		height, lines int
		want, not     string
	}{
		{len(full), len(full), "candidates here", "more"},
		{len(full) - 1, len(full) - 2, "round trip 12 ms", "candidates"},
		{8, 7, "  home · direct · interrupted 1 min 30 s · 12 ms · 2 streams ·\n    ↑ 3.21 Mbit/s ↓ 999 bit/s", "round trip"},
		{4, 4, "connect 4711", "home"},
		{1, 1, "… 7 lines more", "serve"},
	} {
		lines := Fitted(sample(now), 80, test.height, now)
		got := strings.Join(lines, "\n")
		if len(lines) != test.lines || !strings.Contains(got, test.want) || strings.Contains(got, test.not) {
			t.Errorf("%d lines high, want %d with %q and without %q:\n%s", test.height, test.lines, test.want, test.not, got)
		}
	}
}

func TestRedrawn(t *testing.T) {
	if got, want := Redrawn([]string{"a", "b"}), "\x1b[Ha\x1b[K\r\nb\x1b[K\x1b[J"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
