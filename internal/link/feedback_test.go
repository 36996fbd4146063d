// In package link: this file holds the form of feedback, which has no exported name, to its bounds.

package link

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"adit/internal/testtier"
)

func TestFeedbackFormat(t *testing.T) {
	for name, want := range map[string]feedback{
		"plain":   {highest: 1 << 50, packets: 3, bytes: 4, delay: 5 * time.Millisecond, buffer: 1 << 20, came: 7 * time.Second},
		"one":     {highest: 1, n: 1, ranges: [mostRanges]span{{1, 1}}},
		"several": {highest: 1000, n: 3, ranges: [mostRanges]span{{900, 1000}, {898, 898}, {1, 300}}},
	} {
		b := make([]byte, mostFeedbackBytes)
		b = b[:want.put(b)]
		var got feedback
		if ok := got.parse(b); ok != (want.n > 0) || ok && got != want {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, ok, want)
		}
		if got.parse(b[1:]) || got.parse(nil) {
			t.Errorf("%s: a cut feedback parsed", name)
		}
	}
	b := make([]byte, mostFeedbackBytes)
	f := feedback{highest: 9, delay: -1, buffer: -1, n: 1, ranges: [mostRanges]span{{9, 9}}}
	b = b[:f.put(b)]
	if ok := f.parse(b); !ok || f.delay != 0 || f.buffer != 0 {
		t.Errorf("got %+v, %v from negative values", f, ok)
	}
}

// The ranges say what a model that remembers everything says.
func TestFeedbackRanges(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	n := uint64(5000)
	if testtier.IsLong() {
		n = 30000
	}
	for _, loss := range []float64{0, 0.01, 0.3, 0.9} {
		var w replayWindow
		seen := make(map[uint64]bool)
		top := uint64(0)
		for c := uint64(1); c < n; c++ {
			d := c + uint64(r.IntN(5)) // some reordering
			if r.Float64() >= loss && w.fresh(d) {
				w.accept(d)
				seen[d] = true
				top = max(top, d)
			}
			if c%97 != 0 && c > 100 || top == 0 {
				continue
			}
			f := feedback{highest: top}
			f.fill(&w, mostFeedbackBytes)
			if f.n == 0 || f.n > mostRanges || f.ranges[0].last != top {
				t.Fatalf("loss %v, highest %d: %+v", loss, top, f)
			}
			for d := f.ranges[f.n-1].first; d <= top; d++ {
				if f.has(d) != seen[d] {
					t.Fatalf("loss %v, highest %d: %d reported %v", loss, top, d, f.has(d))
				}
			}
			if f.has(f.ranges[f.n-1].first-1) || f.has(top+1) {
				t.Fatal("outside of the ranges")
			}
			b := make([]byte, mostFeedbackBytes)
			n := f.put(b)
			var g feedback
			if !g.parse(b[:n]) || f != g {
				t.Fatalf("got %+v, want %+v", g, f)
			}
		}
	}
}

func FuzzFeedback(f *testing.F) {
	for _, s := range []feedback{
		{highest: 1, n: 1, ranges: [mostRanges]span{{1, 1}}},
		{highest: 1000, n: 3, ranges: [mostRanges]span{{900, 1000}, {898, 898}, {1, 300}}},
	} {
		b := make([]byte, mostFeedbackBytes)
		f.Add(b[:s.put(b)])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var x feedback
		if !x.parse(b) {
			return
		}
		next := x.highest + 1
		for i, r := range x.ranges[:x.n] {
			if r.first == 0 || r.first > r.last || r.last >= next || i > 0 && r.last+1 == next {
				t.Fatalf("ranges %v", x.ranges[:x.n])
			}
			next = r.first
		}
		if len(b) > mostFeedbackBytes {
			return // varints that are longer than needed
		}
		for _, r := range x.ranges[:x.n] {
			if r.last-r.first >= replayPackets || x.highest-r.first >= replayPackets {
				return // longer than what a receiver of ours tells
			}
		}
		p := make([]byte, mostFeedbackBytes)
		p = p[:x.put(p)]
		var y feedback
		if !y.parse(p) || x != y || len(p) == len(b) && !bytes.Equal(p[feedbackBytes:], b[feedbackBytes:]) {
			t.Fatalf("%x became %x", b, p)
		}
	})
}
