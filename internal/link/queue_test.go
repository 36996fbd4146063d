package link

import (
	"testing"
	"time"
)

// What an outage piled up is given back while the link goes on, and what the link needs is kept.
func TestQueueShrinks(t *testing.T) {
	const peak, steady = 4000, 100
	var s scheduler
	b := make([]byte, 1200)
	now := time.Duration(0)
	round := func(n int) {
		var taken []*packet
		for range n {
			if !s.push(1, 0, b, totalBytes) {
				t.Fatal("no room")
			}
		}
		for range n {
			taken = append(taken, s.pop(now))
		}
		for _, p := range taken {
			s.release(p)
		}
	}
	round(peak)
	if s.frees != peak {
		t.Fatalf("%d packets kept, want %d", s.frees, peak)
	}
	for began := now; now-began < time.Minute; now += epochTime / 5 {
		round(steady)
		s.tick(now)
	}
	if s.frees < steady || s.frees > 2*steady {
		t.Errorf("%d packets kept, %d are in use", s.frees, steady)
	}
	if n := testing.AllocsPerRun(100, func() {
		for _, k := range [2]*packet{s.take(), s.take()} {
			s.release(k)
		}
		now += epochTime
		s.tick(now)
	}); n > 1 {
		t.Errorf("%v allocations a round", n)
	}
	list := 0
	for k := s.free; k != nil; k = k.next {
		list++
	}
	if list != s.frees {
		t.Errorf("%d packets on the list, counted %d", list, s.frees)
	}
}
