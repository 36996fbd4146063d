package reliable

import (
	"sync/atomic"
	"time"
)

const (
	// More credit is given when an eighth of a stream's is used, and at least as much as this, or half of
	// the initial credit: seven eighths must bear the path's bandwidth-delay product.
	creditShare = 8
	creditStep  = 128 << 10

	// Credit grows if so many round trips would use it up, as QUIC implementations do it: it is meant
	// to bound memory, not speed.
	growRounds = 4

	// A reader is slow if half of its credit waits for it for so many round trips.
	behindRounds = 8

	// leastRound is what a round trip is taken for at least: the scheduling of readers counts too.
	leastRound = 2 * time.Millisecond
)

// A budget is what the streams of a session may hold for their readers beyond their initial credits.
type budget struct {
	used atomic.Int64
	most int64
}

// take reserves n bytes, or reports false.
func (b *budget) take(n int) bool {
	if b.used.Add(int64(n)) > b.most {
		b.used.Add(int64(-n))
		return false
	}
	return true
}

func (b *budget) give(n int) { b.used.Add(int64(-n)) }

// creditLocked is called when bytes were read. It lets the peer send more when a part of its credit is
// used. The credit of a reader that keeps up with a fast path grows, as far as the session's budget
// goes; that of one that has fallen behind shrinks to what is given already.
//
// The peer never has more than in.window to send or here unread, which is what the budget counts.
func (s *Stream) creditLocked() {
	in := &s.in
	given := int(in.limit - in.consumed)
	if s.released { // no more comes
		s.shrinkLocked(max(in.buf.bytes, initialCredit))
		return
	}
	if in.over || in.hasFinal || given > in.window-max(in.window/creditShare, creditStep) {
		return
	}
	now := time.Now()
	round := max(s.session.link.RTT(), leastRound)
	switch {
	case in.buf.bytes <= in.window/2:
		in.behindAt = time.Time{}
	case in.behindAt.IsZero():
		in.behindAt = now // the link may have repaired a loss just now: all that waited for it comes at once
	case now.Sub(in.behindAt) > behindRounds*round:
		s.shrinkLocked(max(given, initialCredit))
		return
	}
	if most := s.session.cfg.MaxBuffer; in.window < most && in.buf.bytes < in.window/4 {
		used := in.window - given
		if fast := now.Sub(in.creditedAt) < growRounds*round*time.Duration(used)/time.Duration(in.window); fast {
			if more := min(2*in.window, most) - in.window; s.session.credit.take(more) {
				in.window += more
			}
		}
	}
	in.creditedAt = now
	s.allowLocked()
}

// overtook grows the credit where it would end before a hole is repaired, which takes a round trip or
// more in which nothing can be read: n bytes of it are missing or wait behind what is.
func (s *Stream) overtook(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := &s.in
	if s.released || s.err != nil || in.over || in.hasFinal || in.buf.bytes > in.window/4 ||
		in.received+uint64(n)+uint64(in.window-in.window/4) < in.limit {
		return
	}
	if more := min(in.window, s.session.cfg.MaxBuffer-in.window); more > 0 && s.session.credit.take(more) {
		in.window += more
		s.allowLocked()
	}
}

// allowLocked lets the peer send what fits the window.
func (s *Stream) allowLocked() {
	in := &s.in
	in.limit = in.consumed + uint64(in.window)
	if !in.crediting {
		in.crediting = true
		s.session.control.say(s, message{kind: msgCredit}) // with the limit of the moment it is sent
	}
}

// shrinkLocked gives back what a window has beyond n bytes, which are no fewer than the initial credit.
func (s *Stream) shrinkLocked(n int) {
	if in := &s.in; n < in.window {
		s.session.credit.give(in.window - n)
		in.window = n
	}
}

// takeCredit returns what to tell the peer.
func (s *Stream) takeCredit() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in.crediting = false
	return s.in.limit
}
