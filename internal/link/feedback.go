package link

import (
	"encoding/binary"
	"math/bits"
	"time"

	"adit/internal/congestion"
)

// feedback is what a receiver tells of the packets that ask for feedback (DATA, FRAGMENT, MESSAGE), and
// which counters it accepted of late, of whatever packets:
//
//	 0      1..8          9..16         17..24       25..28      29..32       33..40      41..
//	+------+-------------+-------------+------------+-----------+------------+-----------+------------+
//	| kind | highest u64 | packets u64 | bytes u64  | delay u32 | buffer u32 | came u64  | ranges ... |
//	+------+-------------+-------------+------------+-----------+------------+-----------+------------+
//
//	ranges = length, { gap, length }    each an unsigned varint (as encoding/binary has it), not 0
//
// The first range ends at highest and has length counters; gap counters that did not come separate it
// from the next older one, and so on: newest first, as many as fit mostFeedbackBytes. Nothing is said of
// what lies before the last. Where jitter reorders every other packet has a range of its own, and those
// that are late for a while must be told as well: 300 ranges tell of 50 ms at 10,000 packets a second. The fixed fields are cumulative and the ranges overlap those of the last
// feedback, so a lost feedback costs nothing.
type feedback struct {
	highest uint64        // highest counter received
	packets uint64        // how many came, duplicates not counted
	bytes   uint64        // their size, headers and tags included
	delay   time.Duration // from the arrival of the highest to the sending of this; on the wire in microseconds
	buffer  int           // bytes of the receiver's socket buffer; 0 is unknown
	came    time.Duration // when the highest came, by a clock of the receiver's that no step changes; on the wire in microseconds
	n       int           // of ranges in use
	ranges  [mostRanges]span
}

// A span is the counters from first to last, both included.
type span struct{ first, last uint64 }

const (
	feedbackBytes     = 41 // the fixed fields
	mostFeedbackBytes = 1024
	mostCame          = 1<<53 - 1 // microseconds: three centuries
	mostRanges        = (mostFeedbackBytes - feedbackBytes + 1) / 2
)

// report is what congestion control has to know of it.
func (f *feedback) report() congestion.Report {
	return congestion.Report{Highest: f.highest, Packets: f.packets, Bytes: f.bytes, Delay: f.delay, At: f.came, Buffer: f.buffer}
}

// put writes the feedback to b, which has mostFeedbackBytes, and returns its size.
func (f *feedback) put(b []byte) int {
	b[0] = kindFeedback
	binary.BigEndian.PutUint64(b[1:], f.highest)
	binary.BigEndian.PutUint64(b[9:], f.packets)
	binary.BigEndian.PutUint64(b[17:], f.bytes)
	binary.BigEndian.PutUint32(b[25:], uint32(max(0, min(f.delay.Microseconds(), 1<<32-1))))
	binary.BigEndian.PutUint32(b[29:], uint32(max(0, min(f.buffer, 1<<31-1))))
	binary.BigEndian.PutUint64(b[33:], uint64(max(0, f.came.Microseconds()))&mostCame)
	at := feedbackBytes
	for i, r := range f.ranges[:f.n] {
		if i > 0 {
			at += binary.PutUvarint(b[at:], f.ranges[i-1].first-r.last-1)
		}
		at += binary.PutUvarint(b[at:], r.last-r.first+1)
	}
	return at
}

// parse reads a FEEDBACK with its kind byte. It reports false if that is malformed; f is then
// anything.
func (f *feedback) parse(b []byte) bool {
	if len(b) < feedbackBytes+1 || b[0] != kindFeedback {
		return false
	}
	f.highest = binary.BigEndian.Uint64(b[1:])
	f.packets = binary.BigEndian.Uint64(b[9:])
	f.bytes = binary.BigEndian.Uint64(b[17:])
	f.delay = time.Duration(binary.BigEndian.Uint32(b[25:])) * time.Microsecond
	f.buffer = int(binary.BigEndian.Uint32(b[29:]) & (1<<31 - 1))
	f.came = time.Duration(binary.BigEndian.Uint64(b[33:])&mostCame) * time.Microsecond
	f.n = 0
	next := f.highest // the last counter of the next range
	for b = b[feedbackBytes:]; len(b) > 0; f.n++ {
		if f.n == mostRanges {
			return false
		}
		if f.n > 0 {
			gap, n := binary.Uvarint(b)
			if n <= 0 || gap == 0 || gap >= next {
				return false
			}
			next -= gap
			b = b[n:]
		}
		length, n := binary.Uvarint(b)
		if n <= 0 || length == 0 || length > next {
			return false // counter 0 is never used
		}
		f.ranges[f.n] = span{next - length + 1, next}
		next -= length
		b = b[n:]
	}
	return true
}

// has reports whether counter c lies in one of the ranges.
func (f *feedback) has(c uint64) bool {
	lo, hi := 0, f.n // newest first: find the first range that does not begin after c
	for lo < hi {
		if m := (lo + hi) / 2; f.ranges[m].first > c {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo < f.n && c <= f.ranges[lo].last
}

// fill sets the ranges from the counters that w accepted, from f.highest down, for a feedback of most bytes.
func (f *feedback) fill(w *replayWindow, most int) {
	f.n = 0
	room := most - feedbackBytes
	for c := f.highest; c > 0; {
		last := c
		if c = w.before(c, true); c == 0 {
			break
		}
		end := w.before(c, false)
		if f.n > 0 {
			room -= varintBytes(last - c)
		}
		if room -= varintBytes(c - end); room < 0 {
			break
		}
		f.ranges[f.n] = span{end + 1, c}
		f.n++
		c = end
	}
}

// varintBytes returns how many bytes a varint takes.
func varintBytes(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// before returns the largest counter up to c, within the window, that was accepted, or that was not
// (accepted false). If there is none it returns the last counter in front of the window, for accepted
// 0.
func (w *replayWindow) before(c uint64, accepted bool) uint64 {
	low := uint64(1)
	if w.next > replayPackets {
		low = w.next - replayPackets
	}
	for c >= low {
		word := w.bits[c/64%replayWords]
		if !accepted {
			word = ^word
		}
		word <<= 63 - c%64
		if word != 0 {
			c -= uint64(bits.LeadingZeros64(word))
			if c < low {
				break
			}
			return c
		}
		if c < 64 {
			break
		}
		c = c/64*64 - 1
	}
	if accepted {
		return 0
	}
	return low - 1
}
