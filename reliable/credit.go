package reliable

import "time"

const (
	// More credit is given when an eighth of a stream's is used, and at least as much as this, or half of
	// a smaller one: seven eighths must bear the path's bandwidth-delay product.
	creditShare = 8
	creditStep  = 128 << 10

	// welcomeCredit is what a stream has from its beginning while the process holds little.
	welcomeCredit = 256 << 10

	// Credit grows if so many round trips would use it up, as QUIC implementations do it: it is meant
	// to bound memory, not speed.
	growRounds = 4

	// A reader is slow if half of its credit waits for it for so many round trips.
	behindRounds = 8

	// leastRound is what a round trip is taken for at least: the scheduling of readers counts too.
	leastRound = 2 * time.Millisecond
)

// welcomeLocked lets the peer send more than the initial credit, if there is plenty.
func (s *Stream) welcomeLocked() {
	in := &s.in
	if in.ended || in.hasFinal || in.window >= welcomeCredit || !s.session.account.ample() {
		return
	}
	in.window += int(s.session.account.take(int64(welcomeCredit-in.window), int64(in.window)))
	in.creditedAt = time.Now()
	s.allowLocked()
}

// creditLocked is called when bytes were read. It lets the peer send more when a part of its credit is
// used. The credit of a reader that keeps up with a fast path grows, as far as the session's budget
// goes; that of one that has fallen behind shrinks to what is given already.
//
// The peer never has more than in.window to send or here unread, which is what the budget counts.
func (s *Stream) creditLocked() {
	in := &s.in
	given := int(in.limit - in.consumed)
	if s.released { // no more comes
		s.shrinkLocked(in.buf.bytes)
		return
	}
	if in.over || in.hasFinal || given > in.window-max(in.window/creditShare, min(creditStep, in.window/2)) {
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
			in.window += int(s.session.account.take(int64(min(2*in.window, most)-in.window), int64(in.window)))
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
	if s.released || in.over || in.hasFinal || in.buf.bytes > in.window/4 ||
		in.received+uint64(n)+uint64(in.window-in.window/4) < in.limit {
		return
	}
	if more := s.session.account.take(int64(min(in.window, s.session.cfg.MaxBuffer-in.window)), int64(in.window)); more > 0 {
		in.window += int(more)
		s.allowLocked()
	}
}

// allowLocked lets the peer send what fits the window.
func (s *Stream) allowLocked() {
	in := &s.in
	in.limit = in.consumed + uint64(in.window)
	s.conv.reserved.Store(int64(in.window))
	if !in.crediting {
		in.crediting = true
		s.session.control.say(s, message{kind: msgCredit}) // with the limit of the moment it is sent
	}
}

// shrinkLocked gives back what a window has beyond n bytes.
func (s *Stream) shrinkLocked(n int) {
	if in := &s.in; n < in.window {
		s.session.account.give(int64(in.window - n))
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
