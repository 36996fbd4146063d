package congestion

import "time"

const (
	floorFor = time.Minute // that the shortest round trip counts, and up to as much again

	lookRounds = 8                     // round trips with a queue all the time, before the controller looks what makes it,
	lookMean   = 16                    // or with one on average
	lookEvery  = 6 * time.Second       // between looks; a path that changes is found within ten seconds
	lookAgain  = 2 * time.Second       // before one that is to confirm the last
	lookLeast  = 10 * time.Millisecond // in addition to a round trip
	lookPart   = 6.0                   // a queue becomes shorter by such a part of what left it
	lookFall   = 20                    // likewise of itself
	lookDeep   = 3                     // steps, until a queue longer than the path that never became shorter is the path
	lookSteps  = 8                     // at most
	lookMost   = 3                     // times that the pause between looks doubles
)

// Trips are what is known of the round trip and of the way forward. The queue is by how much both have grown beyond
// the least of the last minute or two: a queue on the way back is none that the sender makes, and a clock that jumped
// is none at all.
type trips struct {
	back, forward floor // the round trip, and the way to the receiver by its clock
	smoothed      time.Duration
	path          time.Duration // smoothed round trip without the queue
	queue         time.Duration // of the last sample
	recent        time.Duration // the shortest of the present round; -1: none yet
	mean          time.Duration // smoothed queue
	means         int           // round trips since it was none
	noise         time.Duration // mean decrease of the queue from sample to sample
}

// add takes in a sample; forward is 0 if it is not known.
func (t *trips) add(rtt, forward, now time.Duration) {
	t.back.add(rtt, now)
	queue := rtt - t.back.value()
	if forward != 0 {
		t.forward.add(forward, now)
		queue = min(queue, forward-t.forward.value())
	}
	if t.smoothed == 0 {
		t.smoothed, t.path, t.recent = rtt, rtt, -1
	}
	t.smoothed += (rtt - t.smoothed) / 8
	t.path += (rtt - queue - t.path) / 8
	// A queue that grows only raises the round trip: what lowers it is noise.
	t.noise += (max(t.queue-queue, 0) - t.noise) / 8
	t.queue = queue
	t.mean += (queue - t.mean) / 8
	if t.recent < 0 || queue < t.recent {
		t.recent = queue
	}
}

// least is the shortest round trip of the last minute or two.
func (t *trips) least() time.Duration { return t.back.value() }

// standing reports whether packets wait at the bottleneck.
func (t *trips) standing() bool { return t.queue > t.sign() }

// sign is how long a queue must be to be told from the path's own jitter (RFC 9406 §4.2).
func (t *trips) sign() time.Duration { return queueSign(t.least()) + 4*t.noise }

// queueSign is by how much a round trip must have grown to be the sign of a queue.
func queueSign(least time.Duration) time.Duration {
	return min(max(least/8, 2*time.Millisecond), 16*time.Millisecond)
}

// endRound reports whether packets waited for all of a round trip.
func (t *trips) endRound() bool {
	queue := t.recent
	t.recent = -1
	if t.means++; t.mean <= t.sign() {
		t.means = 0
	}
	return queue > t.sign()
}

// accept makes what a look saw the path without a queue.
func (t *trips) accept(l *look, now time.Duration) {
	t.back = floor{cur: l.rtt, since: now}
	if l.forward != 0 {
		t.forward = floor{cur: l.forward, since: now}
	}
	t.path, t.queue, t.mean, t.means = l.rtt, 0, 0, 0
}

// A look finds out what makes a queue that does not empty. The path may have become longer, or have jitter that never
// lets a packet arrive early; the sender itself may have made it, and somebody else may keep it. In steps of a round
// trip and a half the sender halves what it has in flight. A queue becomes shorter by that, and more so with time
// where the others leave room; a path does not. It goes on while the queue becomes shorter.
type look struct {
	next         time.Duration // not before
	doubt        bool          // the last look found the path longer while others filled the queue
	others       int           // looks that ended with a queue, in a row: the next waits longer
	first, last  sight         // before the look, and before the present step
	from, until  time.Duration // when samples of the present step count
	window       float64       // bytes in flight
	rate         float64       // bytes a second before the look
	sum          time.Duration // of the queue, of
	n            int           // samples in this step
	rtt, forward time.Duration // the least of them
	steps        int
}

// A sight is the mean queue, and how many bytes were in flight.
type sight struct {
	queue  time.Duration
	flying float64
}

func (l *look) begin(t *trips, flying, rate float64, now time.Duration) {
	l.steps, l.rate = 0, max(rate, 1)
	l.first = sight{t.mean, flying}
	l.step(l.first, t.smoothed, now)
}

func (l *look) step(seen sight, trip, now time.Duration) {
	l.last, l.window = seen, max(seen.flying/2, 2*packetBytes)
	l.sum, l.n, l.rtt, l.forward = 0, 0, 0, 0
	l.from = now + trip
	l.until = l.from + max(trip/2, lookLeast)
	l.steps++
}

func (l *look) sample(queue, rtt, forward time.Duration) {
	l.sum += queue
	if l.n++; l.rtt == 0 || rtt < l.rtt {
		l.rtt, l.forward = rtt, forward
	}
}

type finding int

const (
	unknown finding = iota // more is to be seen
	own                    // the queue is gone
	others                 // it does not become shorter any more
	longer                 // it never was one
)

// end ends a step; at a finding of unknown, another one has begun.
func (l *look) end(t *trips, flying float64, now time.Duration) finding {
	seen := sight{l.last.queue, flying}
	if l.n > 0 {
		seen.queue = l.sum / time.Duration(l.n)
	}
	enough, part := 1, lookPart
	if l.first.queue > t.least() { // no jitter: others may have nearly all of it
		enough, part = lookDeep, 2*lookPart
	}
	switch {
	case l.n > 0 && l.steps == enough && !l.shorter(l.first, seen, part):
		return longer
	case l.n > 0 && seen.queue <= t.sign():
		return own
	case l.steps == lookSteps || l.n > 0 && l.steps > enough && !l.shorter(l.last, seen, part):
		return others
	}
	l.step(seen, t.smoothed, now)
	return unknown
}

// shorter reports whether a queue became shorter by what left it, at least by a part of that, and by a part of itself.
func (l *look) shorter(before, after sight, part float64) bool {
	left := seconds(max(before.flying-after.flying, 0) / l.rate / part)
	return before.queue-after.queue > max(left, before.queue/lookFall)
}

// A floor is the lowest of the last one to two floorFor. It outlives a queue that stands for long.
type floor struct {
	cur, last time.Duration
	since     time.Duration
}

func (f *floor) add(x, now time.Duration) {
	if now-f.since > floorFor {
		f.last, f.cur, f.since = f.cur, 0, now
	}
	if f.cur == 0 || x < f.cur {
		f.cur = x
	}
}

func (f *floor) value() time.Duration {
	if f.last != 0 && (f.cur == 0 || f.last < f.cur) {
		return f.last
	}
	return f.cur
}
