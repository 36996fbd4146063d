package congestion

import (
	"testing"
	"time"
)

// Turns become smaller where that helps, and only there.
func TestTurn(t *testing.T) {
	for _, test := range []struct {
		name        string
		loss        func(worth time.Duration) float64
		least, most time.Duration
		small       int // of a thousand round trips, those with smaller turns
	}{
		{"clean", func(time.Duration) float64 { return 0 }, quantumTime, quantumTime, 0},
		{"loses anyway", func(time.Duration) float64 { return 0.05 }, leastTurn, quantumTime, 120},
		{"holds a quarter", func(w time.Duration) float64 { return max(0, 1-float64(quantumTime)/4/float64(w)) }, leastTurn, quantumTime / 3, 1000},
	} {
		x := turn{worth: quantumTime}
		small := 0
		for range 1000 {
			x.round(test.loss(x.worth), false)
			if x.worth < quantumTime {
				small++
			}
		}
		if x.worth < test.least || x.worth > test.most+test.most/8 || small > test.small {
			t.Errorf("%s: a turn is worth %v, want %v to %v; smaller for %d round trips, want %d", test.name, x.worth, test.least, test.most, small, test.small)
		}
		if x.before = 0; x.worth == quantumTime {
			x.large, x.worth, x.before = quantumTime, leastTurn, 0.1
		}
		was := x.worth
		x.round(1, true)
		if x.worth <= was || x.before != 0 {
			t.Errorf("%s: a turn is worth %v beside a queue, was %v", test.name, x.worth, was)
		}
	}
}
