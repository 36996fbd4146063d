package simnet

import (
	"math/bits"
	"time"
)

const (
	// Each power of two has 1<<shareBits buckets, so that a quantile is at most 6 % too long.
	shareBits = 4
	buckets   = (64 - shareBits) << shareBits
)

// A Histogram counts durations. The zero value is empty. It is a plain value: a copy is a snapshot.
type Histogram struct {
	n      uint64
	counts [buckets]uint64
}

// Add counts d; what is below 0 counts as 0.
func (h *Histogram) Add(d time.Duration) {
	h.n++
	h.counts[bucket(uint64(max(d, 0)))]++
}

// N returns how many were counted.
func (h *Histogram) N() uint64 { return h.n }

// Quantile returns a duration that the share q of all, from 0 to 1, do not exceed, at most 6 % more than
// the shortest such; 0 if there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := min(uint64(q*float64(h.n)), h.n-1)
	for i, c := range h.counts {
		if rank < c {
			return time.Duration(most(i))
		}
		rank -= c
	}
	return 0 // not reached: the counts add up to n
}

func (h *Histogram) sub(before *Histogram) {
	h.n -= before.n
	for i := range h.counts {
		h.counts[i] -= before.counts[i]
	}
}

// bucket returns the number of v's bucket.
func bucket(v uint64) int {
	if v < 1<<shareBits {
		return int(v)
	}
	e := bits.Len64(v) - 1 - shareBits
	return e<<shareBits + int(v>>e)
}

// most returns the largest value in a bucket.
func most(i int) uint64 {
	if i < 1<<shareBits {
		return uint64(i)
	}
	e := i>>shareBits - 1
	return uint64(i-e<<shareBits+1)<<e - 1
}
