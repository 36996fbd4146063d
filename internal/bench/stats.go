// Package bench measures a session of streams: throughput each way, round trips beside it, and what
// the link lost and repaired. It has no flags and no terminal.
package bench

import (
	"math"
	"slices"
	"time"
)

// A Distribution sums up round trip times. The zero value is that of none.
type Distribution struct {
	N             int // how many there are
	Min, Avg, Max time.Duration
	P50, P90, P99 time.Duration
}

// Summarize returns the distribution of times, which it leaves alone. Percentiles are by nearest rank:
// each is a time that was measured.
func Summarize(times []time.Duration) Distribution {
	if len(times) == 0 {
		return Distribution{}
	}
	sorted := slices.Sorted(slices.Values(times))
	var sum time.Duration
	for _, t := range sorted {
		sum += t
	}
	rank := func(p float64) time.Duration {
		return sorted[max(int(math.Ceil(p*float64(len(sorted)))), 1)-1]
	}
	return Distribution{
		N: len(sorted), Min: sorted[0], Max: sorted[len(sorted)-1], Avg: sum / time.Duration(len(sorted)),
		P50: rank(0.50), P90: rank(0.90), P99: rank(0.99),
	}
}
