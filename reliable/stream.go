package reliable

import (
	"context"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A Stream is a reliable byte stream, a net.Conn whose directions end alone. Its methods may be
// called at any time by many goroutines; reads wait for each other, and so do writes.
//
// A direction ends well by CloseWrite, or by a reset (Reset, ResetWrite), or because its reader wants no more (Close,
// StopRead). Whichever it is, what was written before arrives first, unless the reader wants no more. Reads then return
// io.EOF or a *StreamError, writes a *StreamError. If the session ends first, reads return what is here, and then the
// session's error.
type Stream struct {
	session *Session
	id      uint32
	opener  bool // this side opened it
	conv    *conversation
	header  []byte // constant once the stream is handed out

	done      chan struct{} // closed when reads end, or will end, with an error
	accepted  chan struct{} // closed when the peer accepted it
	readStop  chan struct{} // closed when this side wants to read no more
	writeStop chan struct{} // closed when nothing more can be written
	readTurn  chan struct{} // capacity 1: held by the one that reads
	writeTurn chan struct{} // capacity 1: held by the one that writes
	readable  chan struct{} // capacity 1: bytes or the end came
	credited  chan struct{} // capacity 1: credit came
	readBy    deadline
	writeBy   deadline

	inbox        atomic.Pointer[inbox] // nil until datagrams are let in
	nextDatagram atomic.Uint32         // id of those that leave in parts

	// Guarded by session.control.mu.
	unsent int  // messages that wait there
	left   bool // released

	mu       sync.Mutex // after conversation.mu, before session.control.mu, never with session.mu
	closed   bool       // by Close
	decided  bool       // accepted or refused here
	granted  bool       // accepted by the peer
	linger   *time.Timer
	released bool
	in       incoming
	out      outgoing
}

func newStream(s *Session, id uint32, opener bool) *Stream {
	st := &Stream{
		session:   s,
		id:        id,
		opener:    opener,
		done:      make(chan struct{}),
		accepted:  make(chan struct{}),
		readStop:  make(chan struct{}),
		writeStop: make(chan struct{}),
		readTurn:  make(chan struct{}, 1),
		writeTurn: make(chan struct{}, 1),
		readable:  make(chan struct{}, 1),
		credited:  make(chan struct{}, 1),
	}
	st.conv = newConversation(s.link, s.gov, &s.account, id, st.take, st.overtook)
	s.account.enter()
	st.in.window, st.in.limit = initialCredit, initialCredit
	st.conv.reserved.Store(initialCredit)
	st.in.inHeader = !opener
	st.out.limit = initialCredit
	return st
}

// start sends the header, length first. A peer that refuses the stream meanwhile is no error: the
// stream's calls return it.
func (s *Stream) start(prefix []byte) error {
	s.header = prefix[2:]
	s.conv.write(prefix) // all of it: the window is empty
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.sent = uint64(len(prefix))
	if _, reset := s.out.err.(*StreamError); reset {
		return nil
	}
	if s.out.err == nil {
		s.welcomeLocked()
	}
	return s.out.err
}

// Header returns what the opener passed to Open. It must not be changed.
func (s *Stream) Header() []byte { return s.header }

// LocalAddr and RemoteAddr return an address that only names the stream.
func (s *Stream) LocalAddr() net.Addr  { return streamAddr(s.id) }
func (s *Stream) RemoteAddr() net.Addr { return streamAddr(s.id) }

// CloseWrite ends this side's direction after the bytes that Write has accepted. It does not wait for
// the peer. A Write that is blocked fails.
func (s *Stream) CloseWrite() error {
	s.mu.Lock()
	if s.out.ending {
		s.mu.Unlock()
		return nil
	}
	if err := s.out.err; err != nil {
		s.mu.Unlock()
		return err
	}
	s.out.ending = true
	s.stopWritesLocked(net.ErrClosed)
	s.mu.Unlock()

	s.writeTurn <- struct{}{} // the one that writes has been told to stop
	s.mu.Lock()
	if !s.out.said && !s.out.over {
		s.out.said = true
		s.session.control.say(s, message{kind: msgFin, value: s.out.sent})
	}
	s.mu.Unlock()
	<-s.writeTurn
	return nil
}

// ResetWrite ends this side's direction because something failed: the peer's reads return a *StreamError with the code
// after the bytes that Write has accepted. It does nothing to a direction that has ended. A Write that is blocked fails.
func (s *Stream) ResetWrite(code uint32) {
	s.mu.Lock()
	s.resetWriteLocked(code, "")
	s.lingerLocked()
	s.mu.Unlock()
	s.releaseIfOver()
}

// StopRead ends the peer's direction: what comes is dropped, and the peer's writes fail with a *StreamError that has
// the code. The other direction goes on. Reads of this side fail.
func (s *Stream) StopRead(code uint32) {
	s.mu.Lock()
	s.stopReadLocked(code, &StreamError{Code: code})
	s.mu.Unlock()
	s.dropDatagrams()
	s.releaseIfOver()
}

// Close ends both directions. It returns at once: what was written goes on to the peer in the
// background, for five minutes at most. What the peer still sends is dropped and its writes fail. A
// stream of the peer's that was neither accepted nor refused is refused.
func (s *Stream) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	if !s.opener && !s.decided && s.out.err == nil {
		s.mu.Unlock()
		return s.Reset(CodeClosed)
	}
	s.stopReadLocked(CodeClosed, net.ErrClosed)
	s.lingerLocked()
	s.mu.Unlock()
	s.dropDatagrams()
	s.readBy.stop()
	s.writeBy.stop()
	_ = s.CloseWrite() // fails if nothing can be written any more
	s.releaseIfOver()
	return nil
}

// Accept tells the peer, which opened the stream, that it is served. Data may flow before.
func (s *Stream) Accept() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opener || s.decided {
		return nil
	}
	if e, failed := s.out.err.(*sessionError); failed {
		return e
	}
	if s.in.unwanted {
		return s.in.err
	}
	s.decided = true
	if !s.released {
		s.session.control.say(s, message{kind: msgAccept})
		s.welcomeLocked()
	}
	return nil
}

// Refuse resets a stream that the peer opened, with a reason of at most 256 bytes.
func (s *Stream) Refuse(code uint32, reason string) error {
	return s.reset(code, reason[:min(len(reason), maxReason)])
}

// Reset ends both directions because something failed: ResetWrite and StopRead.
func (s *Stream) Reset(code uint32) error { return s.reset(code, "") }

func (s *Stream) reset(code uint32, reason string) error {
	s.mu.Lock()
	s.decided = true
	s.resetWriteLocked(code, reason) // before STOP, which has no reason
	s.stopReadLocked(code, &StreamError{Code: code, Reason: reason})
	s.lingerLocked()
	s.mu.Unlock()
	s.dropDatagrams()
	s.releaseIfOver()
	return nil
}

// Done is closed when reads end, or will end after what is here and on its way, with an error: the peer has reset its
// direction, this side wants no more, or the session ended.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Stopped is closed when nothing can be written any more: the peer wants no more, this side's direction has ended, or
// the session has.
func (s *Stream) Stopped() <-chan struct{} { return s.writeStop }

// Unread returns how many bytes are still to be read, as far as this side knows: those that are here, and if the peer
// has ended its direction those on their way too. The header counts until it is there.
func (s *Stream) Unread() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := &s.in
	switch {
	case in.unwanted:
		return 0
	case in.hasFinal && in.final > in.consumed && !in.ended:
		return int64(in.final - in.consumed)
	}
	return int64(in.buf.bytes)
}

// WaitAccepted blocks until the peer accepted the stream, which this side opened. It returns a
// *StreamError if the peer refused, ctx's cause, or why the stream failed.
func (s *Stream) WaitAccepted(ctx context.Context) error {
	if isClosed(s.accepted) {
		return nil
	}
	select {
	case <-s.accepted:
		return nil
	case <-s.done:
		return s.failure()
	case <-s.readStop:
		return net.ErrClosed
	case <-s.session.done:
		return s.session.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// SetDeadline sets both deadlines.
func (s *Stream) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// SetReadDeadline makes reads, also those that are blocked now, fail with os.ErrDeadlineExceeded from
// t on. The zero time means never.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.readBy.set(t)
	return nil
}

// SetWriteDeadline is the same for writes.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.writeBy.set(t)
	return nil
}

// failure returns why reads end with an error, or nil.
func (s *Stream) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in.err
}

// lingers reports whether the owner has closed or reset the stream.
func (s *Stream) lingers() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in.unwanted
}

// fail ends what has not ended because the session has.
func (s *Stream) fail(err error) {
	s.mu.Lock()
	if s.released {
		s.mu.Unlock()
		return
	}
	if !s.in.ended {
		s.in.over, s.in.ended = true, true
		if s.in.err == nil { // else the peer's reset, whose bytes are not all here
			s.in.err = err
		}
		s.doneLocked()
		s.wakeReaderLocked()
	}
	s.in.over, s.out.over = true, true
	s.stopWritesLocked(err)
	s.mu.Unlock()
	s.dropDatagrams()
	s.releaseIfOver()
}

func (s *Stream) doneLocked() {
	if !isClosed(s.done) {
		close(s.done)
	}
}

// lingerLocked bounds how long what was written may take to reach the peer.
func (s *Stream) lingerLocked() {
	if s.linger == nil && !s.released {
		s.linger = time.AfterFunc(lingerLimit, s.expire)
	}
}

// expire gives up what the peer does not have. A reset of size 0 takes the place of the end that was said before.
func (s *Stream) expire() {
	s.mu.Lock()
	if !s.out.over {
		s.out.over = true
		s.stopWritesLocked(&StreamError{Code: CodeTimeout})
		s.session.control.say(s, message{kind: msgReset, code: CodeTimeout})
	}
	s.stopReadLocked(CodeTimeout, &StreamError{Code: CodeTimeout})
	s.mu.Unlock()
	s.releaseIfOver()
}

// handle deals with a message of the peer and reports whether it told something new.
func (s *Stream) handle(m message) (news bool) {
	switch m.kind {
	case msgAccept:
		s.mu.Lock()
		if news = s.opener && !s.granted; news {
			s.granted = true
			close(s.accepted)
		}
		s.mu.Unlock()
	case msgReset, msgFin:
		return s.finished(m)
	case msgFinAck:
		s.mu.Lock()
		if news = s.out.said && !s.out.over; news {
			s.out.over = true
		}
		s.mu.Unlock()
		s.releaseIfOver()
	case msgStop:
		s.mu.Lock()
		news = !s.out.over
		s.out.over = true
		why := &StreamError{Code: m.code, Remote: true}
		if e, ok := s.in.err.(*StreamError); ok && e.Remote && e.Code == m.code {
			why = e // which has the reason
		}
		s.stopWritesLocked(why)
		s.mu.Unlock()
		if news {
			s.conv.stopSending()
		}
		s.releaseIfOver()
	case msgCredit:
		s.mu.Lock()
		if news = m.value > s.out.limit; news {
			s.out.limit = m.value
		}
		s.mu.Unlock()
		signal(s.credited)
	}
	return news
}

// releaseIfOver gives the conversation up when neither side needs it any more.
func (s *Stream) releaseIfOver() {
	s.mu.Lock()
	if s.released || !s.in.over || !s.out.over {
		s.mu.Unlock()
		return
	}
	s.released = true
	s.shrinkLocked(s.in.buf.bytes)
	if s.linger != nil {
		s.linger.Stop()
	}
	s.mu.Unlock()
	s.conv.close()
	s.session.account.leave()
	s.session.released(s)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

var _ net.Conn = (*Stream)(nil)

// A streamAddr names a stream by its number.
type streamAddr uint32

func (streamAddr) Network() string  { return "adit" }
func (a streamAddr) String() string { return "stream " + strconv.FormatUint(uint64(a), 10) }
