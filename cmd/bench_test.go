package cmd

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"adit/internal/bench"
	"adit/internal/peer"
)

func TestBenchTable(t *testing.T) {
	ms := time.Millisecond
	rtt := func(p50, p90, p99 time.Duration) bench.Distribution {
		return bench.Distribution{N: 100, P50: p50, P90: p90, P99: p99}
	}
	r := bench.Result{PacketBytes: 1444, PeerPacketBytes: 1444, Phases: []bench.Phase{
		{Name: bench.Idle, RTT: rtt(40*ms, 41*ms, 41*ms), Sent: 100},
		{Name: bench.Down, Bits: 93.24e6, RTT: rtt(45*ms, 48*ms, 160*ms), Sent: 10000, Lost: 102, Resent: 104},
		{Name: bench.Up, Bits: 3.3e9, RTT: rtt(900*time.Microsecond, 1100*time.Microsecond, 1*ms), Sent: 9000},
	}}
	path := peer.Path{Kind: "direct", Local: "host 192.168.1.7:50312", Remote: "srflx 203.0.113.9:41200"}
	want := `path        direct
this side   host 192.168.1.7:50312
other side  srflx 203.0.113.9:41200
packets     1444 bytes

                 idle     down       up
Mbit/s              -     93.2     3300
p50 ms           40.0     45.0    0.900
p90 ms           41.0     48.0     1.10
p99 ms           41.0      160     1.00
lost %              0     1.02        0
resent %            0     1.04        0
`
	got := strings.Join(benchTable(r, path), "\n") + "\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, line := range strings.Split(got, "\n") {
		if utf8.RuneCountInString(line) > 39 {
			t.Errorf("%q does not fit into 40 columns", line)
		}
	}
	r.Phases, r.PeerPacketBytes = r.Phases[:1], 1200
	short := strings.Join(benchTable(r, path), "\n")
	if !strings.Contains(short, "packets     1444 bytes up, 1200 down\n\n                 idle\nMbit/s              -\n") {
		t.Errorf("after one phase:\n%s", short)
	}
}

// TestGraphLine holds what a terminal shows in the middle of a phase of five seconds and at its end.
func TestGraphLine(t *testing.T) {
	for _, test := range []struct {
		name    string
		columns int
		levels  string
		want    string
	}{
		{"narrow", 39, blockLevels, `
idle ▆▇▇██                 14.0 ms
idle ▃▄▄▄▄▅▅▅▅▆▆▆▇▇▇▇████  29.0 ms
down ▁▃▄▅▇█        24.0 Mbit/s  42.0 ms
down ▁▁▂▃▃▄▅▆▆▇██  49.0 Mbit/s  42.0 ms
`},
		{"narrow, in ASCII", 39, asciiLevels, `
idle +**##                 14.0 ms
idle -::::====+++****####  29.0 ms
down _-:=*#        24.0 Mbit/s  42.0 ms
down __.--:=++*##  49.0 Mbit/s  42.0 ms
`},
		{"wide", 119, blockLevels, `
idle ▆▇▇██                 14.0 ms
idle ▃▄▄▄▄▅▅▅▅▆▆▆▇▇▇▇████  29.0 ms
down ▁▁▁▂▂▂▃▃▃▄▄▄▅▅▅▆▆▆▇▇▇████                           24.0 Mbit/s  42.0 ms
down ▁▁▁▁▁▁▁▂▂▂▂▂▂▃▃▃▃▃▃▄▄▄▄▄▄▅▅▅▅▅▅▆▆▆▆▆▆▇▇▇▇▇▇███████  49.0 Mbit/s  42.0 ms
`},
		{"no room for bars", 26, blockLevels, `
idle ▆▇█           14.0 ms
idle ▃▄▄▅▅▆▆▇▇███  29.0 ms
down  24.0 Mbit/s  42.0 ms
down  49.0 Mbit/s  42.0 ms
`},
		{"no room", 10, blockLevels, `
idle  14.…
idle  29.…
down  24.…
down  49.…
`},
	} {
		u, _, _ := screen(nil)
		g := newLiveGraph(u, 5*time.Second)
		g.levels = []rune(test.levels)
		got := "\n"
		line := func() {
			last := g.samples[len(g.samples)-1]
			l := g.line(test.columns, last.Bits, last.RTT)
			if n := utf8.RuneCountInString(l); n > test.columns {
				t.Errorf("%s: %d columns: %q", test.name, n, l)
			}
			got += l + "\n"
		}
		g.phase = bench.Idle
		for i := range 20 {
			g.samples = append(g.samples, bench.Sample{RTT: time.Duration(10+i) * time.Millisecond})
			if i == 4 || i == 19 {
				line()
			}
		}
		g.phase, g.samples = bench.Down, nil
		for i := range 50 {
			g.samples = append(g.samples, bench.Sample{Bits: float64(i) * 1e6, RTT: 42 * time.Millisecond})
			if i == 24 || i == 49 {
				line()
			}
		}
		if got != test.want {
			t.Errorf("%s: got%swant%s", test.name, got, test.want)
		}
	}
}

// TestLiveGraph holds that each phase leaves its line on the screen.
func TestLiveGraph(t *testing.T) {
	u, _, errOut := screen(func(u *ui) { u.redraw = true })
	g := newLiveGraph(u, time.Second)
	g.levels = []rune(asciiLevels)
	g.add(bench.Sample{Phase: bench.Idle, RTT: time.Millisecond})
	g.add(bench.Sample{Phase: bench.Down, Bits: 4e6, RTT: time.Millisecond})
	g.add(bench.Sample{Phase: bench.Down, Bits: 2e6, RTT: 5 * time.Millisecond})
	g.end()
	u.say("done")
	const clear = "\r\x1b[K"
	want := "idle #           1.00 ms" + clear + "idle #           1.00 ms\n" +
		"down #           4.00 Mbit/s  1.00 ms" + clear + "down #=          2.00 Mbit/s  5.00 ms" + clear +
		"down #=          3.00 Mbit/s  1.00 ms\ndone\n" // the mean and the median stay
	if got := errOut.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLiveGraphElsewhere(t *testing.T) {
	for name, change := range map[string]func(*ui){
		"no terminal": func(*ui) {},
		"quiet":       func(u *ui) { u.redraw, u.quiet = true, true },
	} {
		u, out, errOut := screen(change)
		g := newLiveGraph(u, time.Second)
		g.add(bench.Sample{Phase: bench.Idle})
		g.end()
		if out.Len()+errOut.Len() > 0 {
			t.Errorf("%s: %q and %q, want nothing", name, out, errOut)
		}
	}
}

func TestBars(t *testing.T) {
	for _, test := range []struct {
		name       string
		values     []float64
		n, columns int
		want       string
	}{
		{"nothing yet", nil, 10, 5, "     "},
		{"all zero", []float64{0, 0}, 4, 4, "__  "},
		{"one each", []float64{1, 2, 4, 8}, 4, 4, ".-=#"},
		{"two each", []float64{1, 3, 8, 8}, 8, 4, "-#  "},
		{"half a column", []float64{8}, 8, 4, "#   "},
		{"more columns than values", []float64{8, 4}, 2, 4, "##=="},
	} {
		if got := bars(test.values, test.n, test.columns, []rune(asciiLevels)); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestUnicodeLocale(t *testing.T) {
	for _, test := range []struct {
		env    map[string]string
		system string
		want   bool
	}{
		{nil, "linux", false},
		{map[string]string{"LANG": "en_GB.UTF-8"}, "linux", true},
		{map[string]string{"LANG": "C.utf8"}, "linux", true},
		{map[string]string{"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, "linux", false},
		{map[string]string{"LC_CTYPE": "UTF-8"}, "darwin", true},
		{map[string]string{"WT_SESSION": "x"}, "windows", true},
		{map[string]string{"WT_SESSION": "x"}, "linux", false},
	} {
		if got := unicodeLocale(func(k string) string { return test.env[k] }, test.system); got != test.want {
			t.Errorf("%v on %s: %v, want %v", test.env, test.system, got, test.want)
		}
	}
}
