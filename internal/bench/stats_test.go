package bench

import (
	"slices"
	"testing"
	"time"
)

func TestSummarize(t *testing.T) {
	if got := Summarize(nil); got != (Distribution{}) {
		t.Errorf("of nothing: %+v", got)
	}
	one := Distribution{N: 1, Min: 5, Avg: 5, Max: 5, P50: 5, P90: 5, P99: 5}
	if got := Summarize([]time.Duration{5}); got != one {
		t.Errorf("of one: got %+v, want %+v", got, one)
	}
	times := make([]time.Duration, 200)
	for i := range times {
		times[i] = time.Duration(200 - i)
	}
	before := slices.Clone(times)
	want := Distribution{N: 200, Min: 1, Avg: 100, Max: 200, P50: 100, P90: 180, P99: 198}
	if got := Summarize(times); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if !slices.Equal(times, before) {
		t.Error("the times were changed")
	}
}
