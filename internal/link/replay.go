package link

import "math"

const (
	replayPackets = 8192 // how far behind the highest counter a packet may be
	replayWords   = 2 * replayPackets / 64
)

// A replayWindow remembers which counters were accepted, in the manner of RFC 6479: a ring of words
// that is larger than the window, so that sliding clears whole words and shifts nothing.
type replayWindow struct {
	next uint64 // highest counter accepted, plus one; 0 at first
	bits [replayWords]uint64
}

// fresh reports whether counter c lies in or above the window and was not accepted yet.
func (w *replayWindow) fresh(c uint64) bool {
	if c >= w.next {
		return c != math.MaxUint64 // next would overflow
	}
	if w.next-1-c >= replayPackets {
		return false
	}
	return w.bits[c/64%replayWords]&(1<<(c%64)) == 0
}

// accept marks c, which must be fresh, and reports whether it is the highest so far.
func (w *replayWindow) accept(c uint64) (highest bool) {
	if c >= w.next {
		highest = true
		if w.next > 0 {
			from, to := (w.next-1)/64+1, c/64
			for i := range min(to+1-min(from, to+1), replayWords) {
				w.bits[(from+i)%replayWords] = 0
			}
		}
		w.next = c + 1
	}
	w.bits[c/64%replayWords] |= 1 << (c % 64)
	return highest
}
