package cmd

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"adit/internal/bench"
	"adit/internal/typeset"
)

// Levels of a graph, lowest first.
const (
	blockLevels = "▁▂▃▄▅▆▇█"
	asciiLevels = "_.-:=+*#"
)

// A liveGraph draws a measurement in the status line while it runs, and leaves the line of each phase on
// the screen. Where there is no status line it does nothing.
type liveGraph struct {
	ui       *ui
	duration time.Duration // of a phase with data
	levels   []rune

	phase   string
	samples []bench.Sample // of the phase
}

func newLiveGraph(u *ui, duration time.Duration) *liveGraph {
	levels := asciiLevels
	if unicodeLocale(os.Getenv, runtime.GOOS) {
		levels = blockLevels
	}
	return &liveGraph{ui: u, duration: duration, levels: []rune(levels)}
}

// unicodeLocale reports whether the terminal most likely shows UTF-8.
func unicodeLocale(getenv func(string) string, system string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} { // the first one set wins: POSIX, section 8.2
		if v := strings.ToLower(getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return system == "windows" && getenv("WT_SESSION") != ""
}

// add draws one more sample.
func (g *liveGraph) add(x bench.Sample) {
	u := g.ui
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.redraw || u.quiet {
		return
	}
	if x.Phase != g.phase {
		g.keepLocked()
		g.phase = x.Phase
	}
	g.samples = append(g.samples, x)
	u.vivid = true
	u.statusLocked(g.line(u.width()-1, x.Bits, x.RTT))
}

// end leaves the graph on the screen and the status line free.
func (g *liveGraph) end() {
	g.ui.mu.Lock()
	defer g.ui.mu.Unlock()
	g.keepLocked()
	g.ui.vivid = false
}

// keepLocked turns the status line into one that stays.
func (g *liveGraph) keepLocked() {
	if len(g.samples) == 0 {
		return
	}
	// What stays is what the phase was like, not its last moment.
	var bits float64
	rtts := make([]time.Duration, len(g.samples))
	for i, x := range g.samples {
		bits += x.Bits / float64(len(g.samples))
		rtts[i] = x.RTT
	}
	line := g.line(g.ui.width()-1, bits, bench.Summarize(rtts).P50)
	g.ui.statusLocked()
	g.ui.lineLocked(g.ui.paint(green, line), "")
	g.samples = g.samples[:0]
}

// line draws the phase in so many columns: its name, bars from left to right as time passes, and two
// figures. Bars are of the rate; of the round trip while idle.
func (g *liveGraph) line(columns int, bits float64, rtt time.Duration) string {
	figures := fmt.Sprintf("%5s ms", typeset.Digits(inMilliseconds(rtt)))
	expected := min(g.duration, bench.IdleDuration)
	value := func(x bench.Sample) float64 { return x.RTT.Seconds() }
	if g.phase != bench.Idle {
		figures = fmt.Sprintf("%5s Mbit/s ", typeset.Digits(bits/1e6)) + figures
		expected = g.duration
		value = func(x bench.Sample) float64 { return x.Bits }
	}
	values := make([]float64, len(g.samples))
	for i, x := range g.samples {
		values[i] = value(x)
	}
	n := max(int(expected/bench.SampleInterval), len(values))
	room := columns - len("idle ") - len(" ") - len(figures)
	if room < 1 {
		return typeset.Fit(fmt.Sprintf("%-4s %s", g.phase, figures), columns)
	}
	return fmt.Sprintf("%-4s %s %s", g.phase, bars(values, n, min(room, n), g.levels), figures)
}

// bars draws values, of n there will be, in so many columns. A column that several fall into shows their
// mean. The highest column is full; those yet to come are blank.
func bars(values []float64, n, columns int, levels []rune) string {
	means := make([]float64, 0, columns)
	highest := 0.0
	for i := range columns {
		from, to := i*n/columns, max((i+1)*n/columns, i*n/columns+1)
		if from >= len(values) {
			break
		}
		to = min(to, len(values))
		sum := 0.0
		for _, v := range values[from:to] {
			sum += v
		}
		means = append(means, sum/float64(to-from))
		highest = max(highest, means[i])
	}
	out := make([]rune, columns)
	for i := range out {
		out[i] = ' '
		if i < len(means) {
			out[i] = levels[0]
			if highest > 0 {
				out[i] = levels[min(int(means[i]/highest*float64(len(levels))), len(levels)-1)]
			}
		}
	}
	return string(out)
}
