// Package congestion decides how much a link may send, and when. It is pure: it has no sockets, no locks, no
// goroutines and no clock of its own, so that thousands of scenes run in simulated time within seconds.
//
//	           packets that leave                 what the peer reports
//	                  |                                   |
//	                  v                                   v
//	Sender:   ledger: what was sent, what is in flight, samples of rate and round trip
//	                  |                                   |
//	                  v                                   v
//	          ceiling: credit for 1.45 bytes a byte    Controller: window and pace
//	                  |                                   |
//	                  +--> may a packet leave now? <------+--- pacer
//
// A Controller believes something about the path; Control (control.go) is the one that is used. The ceiling holds
// whatever the controller believes (ceiling.go). docs/congestion.md has the choice and its reasons.
//
// Times are durations since an epoch of the caller's, never 0. Rates are bytes a second, sizes bytes of packets as the
// link counts them, without IP and UDP.
package congestion

import "time"

const (
	packetBytes = 1228            // a full packet, before the path was found to carry larger ones
	leastWindow = 8 * packetBytes // in flight, where nothing is reported or the path is narrow

	leastSleep  = 200 * time.Microsecond // of the caller
	quantumTime = time.Millisecond       // worth of packets that leave together
	mostQuantum = 65000                  // bytes: what one system call takes
)

// A Controller says how much may be in flight and how fast it leaves.
type Controller interface {
	// Reset forgets what is known of the path. rtt is a first estimate of the round trip, or 0.
	Reset(rtt, now time.Duration)
	// RoundTrip takes in a round trip that a ping measured.
	RoundTrip(rtt, now time.Duration)
	// Report takes in what the peer reported.
	Report(s *Sample)
	// State returns what follows from it.
	State() State
}

// A State is what a controller wants, and what it believes.
type State struct {
	Window float64       // bytes that may be in flight now
	Steady float64       // the same without the moments in which it is made small on purpose
	Pace   float64       // bytes a second
	Burst  float64       // bytes that may leave at once
	Turn   time.Duration // worth of bytes that leave together; 0 is a millisecond
	Rate   float64       // bytes a second that the path carries; 0 is unknown
	Loss   float64       // share that is lost
	MinRTT time.Duration
	BDP    float64       // bytes that the path holds without a queue
	Full   time.Duration // when the path was found full; 0: not yet
	Queue  bool          // packets wait at the bottleneck
}

// A Sender is one direction of a link. L is what the caller keeps with each packet. It is not safe for concurrent use.
type Sender[L any] struct {
	ledger[L]
	control Controller
	ceiling ceiling
	state   State
	rtt     estimate
	pacer   struct {
		tokens float64 // bytes
		at     time.Duration
	}
	progress struct {
		at     time.Duration // last report that told something new, or the first packet after none
		stalls int           // timeouts since then
	}
	sample Sample // of the last report
}

// An estimate of the round trip as RFC 6298 §2 has it.
type estimate struct{ smoothed, deviation time.Duration }

func (e *estimate) add(rtt time.Duration) {
	if e.smoothed == 0 {
		e.smoothed, e.deviation = rtt, rtt/2
	}
	e.deviation += (max(rtt-e.smoothed, e.smoothed-rtt) - e.deviation) / 4
	e.smoothed += (rtt - e.smoothed) / 8
}

// NewSender returns a sender that asks the given controller, or a Control if that is nil.
func NewSender[L any](c Controller) *Sender[L] {
	if c == nil {
		c = new(Control)
	}
	s := &Sender[L]{control: c}
	s.Reset(0, 0)
	return s
}

// Reset forgets what is known of the path: there is another one. rtt is a first estimate, or 0. What is in flight no
// longer counts.
func (s *Sender[L]) Reset(rtt, now time.Duration) {
	s.ledger.reset(now)
	s.rtt = estimate{rtt, rtt / 2}
	s.ceiling.reset(now)
	s.control.Reset(rtt, now)
	s.state = s.control.State()
	s.progress.at, s.progress.stalls = now, 0
	s.pacer.tokens, s.pacer.at = leastBurst, now
}

// Sent records a packet that asks for feedback. Counters only grow. It returns the record that had to make room: a
// report of it will not be understood any more.
func (s *Sender[L]) Sent(counter uint64, size int, now time.Duration) Record[L] {
	if s.inFlight() == 0 {
		s.progress.at = now
	}
	s.pacer.tokens -= float64(size)
	s.ceiling.sent(size)
	return s.ledger.sent(counter, size, now)
}

// Grow makes the packet that was sent last larger by so many bytes.
func (s *Sender[L]) Grow(counter uint64, by int) {
	s.pacer.tokens -= float64(by)
	s.ceiling.sent(by)
	s.ledger.grow(counter, by)
}

// Record returns what is known of a packet, valid until the next one is sent, or nil.
func (s *Sender[L]) Record(counter uint64) *Record[L] { return s.ledger.at(counter) }

// Records calls f for each packet that is known.
func (s *Sender[L]) Records(f func(*Record[L])) {
	for i := range s.ring {
		if s.ring[i].Counter != 0 {
			f(&s.ring[i])
		}
	}
}

// Forget gives up all records.
func (s *Sender[L]) Forget() { s.ring = nil }

// Report takes in what the receiver told. It returns false for what cannot be true or is older than the last, and
// changes nothing then.
func (s *Sender[L]) Report(f Report, now time.Duration) bool {
	news := f.Packets > s.arrivedPackets
	sample := &s.sample
	if !s.ledger.report(f, now, sample) {
		return false
	}
	if news {
		s.progress.at, s.progress.stalls = now, 0
	}
	if sample.RTT > 0 {
		s.rtt.add(sample.RTT)
	}
	s.ceiling.reported(sample, s.rtt.smoothed)
	s.control.Report(sample)
	s.state = s.control.State()
	return true
}

// RoundTrip takes in a round trip that a ping measured.
func (s *Sender[L]) RoundTrip(rtt, now time.Duration) {
	s.rtt.add(max(rtt, time.Microsecond))
	s.control.RoundTrip(max(rtt, time.Microsecond), now)
	s.state = s.control.State()
}

// Stall gives up what is in flight, so that a little can be sent.
func (s *Sender[L]) Stall(now time.Duration) {
	s.forgotten = s.sentBytes
	s.progress.at = now
	s.progress.stalls++
	s.ceiling.stalled(now)
}

// Resume ends the stall: the peer was heard.
func (s *Sender[L]) Resume() { s.progress.stalls = 0 }

// window is how much may be in flight now.
func (s *Sender[L]) window() float64 {
	if s.progress.stalls > 0 {
		return leastWindow
	}
	return s.state.Window
}

// Turn refills the pacer and returns when so many waiting bytes, or as many of them as leave together, may be sent: now,
// or later. It never returns a time that has passed.
func (s *Sender[L]) Turn(waiting int, now time.Duration) time.Duration {
	rate, burst := s.state.Pace, s.state.Burst
	p := &s.pacer
	p.tokens = max(min(p.tokens+rate*(now-p.at).Seconds(), burst), -burst) // nobody waits for ever for flow 0
	p.at = now
	if n, ok := s.control.(interface{ Spent(tokens float64) }); ok {
		n.Spent(p.tokens)
	}
	turn := s.state.Turn
	if turn == 0 {
		turn = quantumTime
	}
	quantum := min(max(rate*turn.Seconds(), packetBytes), mostQuantum)
	need := min(float64(waiting), quantum, burst)
	if p.tokens < need {
		return now + max(seconds((need-p.tokens)/rate), leastSleep)
	}
	_, at := s.ceiling.open(now)
	return at
}

// Open reports whether one more packet may leave in this turn.
func (s *Sender[L]) Open(now time.Duration) bool {
	ok, _ := s.ceiling.open(now)
	return ok && s.pacer.tokens > 0 && !s.Blocked()
}

// Blocked reports whether the window is full: either a report comes, or all that is in flight is lost.
func (s *Sender[L]) Blocked() bool { return s.inFlight()+packetBytes > s.window() }

// Idle takes note that nothing waits to be sent: the sender, not the path, is the limit, unless there is more in
// flight than the path holds without a queue. Then its own queue has run empty for a moment.
func (s *Sender[L]) Idle() {
	if s.inFlight() >= s.window() {
		return
	}
	lossy := s.state.Loss >= slightLoss
	need := 1.25*s.state.BDP + s.state.Rate*(FeedbackInterval(s.state.MinRTT)+leastSample).Seconds()
	if (s.state.Queue || lossy) && s.state.Rate > 0 && s.inFlight() >= need {
		return
	}
	s.limited = s.last
}

// Timeout is when all that is in flight counts as lost, if nothing is reported until then.
func (s *Sender[L]) Timeout() time.Duration {
	t := max(2*s.rtt.smoothed+FeedbackInterval(s.rtt.smoothed), 100*time.Millisecond)
	return s.progress.at + min(t<<min(s.progress.stalls, 5), max(time.Second, t))
}

// Stalled reports whether a timeout has passed and nothing was reported since.
func (s *Sender[L]) Stalled() bool { return s.progress.stalls > 0 }

// ProgressAt is when something new was reported last, or the first packet left after nothing was in flight.
func (s *Sender[L]) ProgressAt() time.Duration { return s.progress.at }

// Acked returns the highest counter that was reported.
func (s *Sender[L]) Acked() uint64 { return s.acked }

// Packets returns how many packets were sent up to the highest that was reported, and how many of these arrived.
func (s *Sender[L]) Packets() (sent, arrived uint64) { return s.ackedPackets, s.arrivedPackets }

// Lost returns how many packets were sent up to the highest that was reported, but did not arrive.
func (s *Sender[L]) Lost() uint64 { return s.lost() }

// SmoothedRTT is that of RFC 6298 §2; 0 before the first round trip.
func (s *Sender[L]) SmoothedRTT() time.Duration { return s.rtt.smoothed }

// Deviation is the mean deviation of the round trip.
func (s *Sender[L]) Deviation() time.Duration { return s.rtt.deviation }

// State returns what the controller wants and believes.
func (s *Sender[L]) State() State { return s.state }

// Window returns how many bytes may be in flight now.
func (s *Sender[L]) Window() float64 { return s.window() }

// seconds returns s as a Duration, an hour at most.
func seconds(s float64) time.Duration {
	return time.Duration(min(s, 3600) * float64(time.Second))
}
