package reliable

import (
	"context"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A Stream is a reliable byte stream, a net.Conn whose directions end alone. Its methods may be
// called at any time by many goroutines; reads wait for each other, and so do writes.
//
// A stream that failed returns the same error from all calls from then on: a *StreamError after a
// reset or a refusal, the session's error when that ended. Bytes that arrived in full before the
// session ended may still be read to their end.
type Stream struct {
	session *Session
	id      uint32
	opener  bool // this side opened it
	conv    *conversation
	header  []byte // constant once the stream is handed out

	done      chan struct{} // closed when it failed
	gone      chan struct{} // closed when done is, or when the peer left before this side's end
	accepted  chan struct{} // closed when the peer accepted it
	readStop  chan struct{} // closed by Close
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

	mu       sync.Mutex // before session.control.mu, never with session.mu
	err      error
	closed   bool // by Close
	decided  bool // accepted or refused here
	granted  bool // accepted by the peer
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
		gone:      make(chan struct{}),
		accepted:  make(chan struct{}),
		readStop:  make(chan struct{}),
		writeStop: make(chan struct{}),
		readTurn:  make(chan struct{}, 1),
		writeTurn: make(chan struct{}, 1),
		readable:  make(chan struct{}, 1),
		credited:  make(chan struct{}, 1),
	}
	st.conv = newConversation(s.link, s.gov, &s.held, id, st.take, st.overtook)
	st.in.window, st.in.limit = initialCredit, initialCredit
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
	if _, reset := s.err.(*StreamError); reset {
		return nil
	}
	return s.err
}

// Header returns what the opener passed to Open. It must not be changed.
func (s *Stream) Header() []byte { return s.header }

// LocalAddr and RemoteAddr return an address that only names the stream.
func (s *Stream) LocalAddr() net.Addr  { return streamAddr(s.id) }
func (s *Stream) RemoteAddr() net.Addr { return streamAddr(s.id) }

// Read returns io.EOF after the last byte that the peer wrote before it ended its direction.
func (s *Stream) Read(p []byte) (int, error) {
	if isClosed(s.readBy.wait()) {
		return 0, os.ErrDeadlineExceeded
	}
	select {
	case s.readTurn <- struct{}{}:
		defer func() { <-s.readTurn }()
	case <-s.readBy.wait():
		return 0, os.ErrDeadlineExceeded
	}
	for {
		if n, err, ready := s.readNow(p); ready {
			return n, err
		}
		select {
		case <-s.readable:
		case <-s.readBy.wait():
			return 0, os.ErrDeadlineExceeded
		case <-s.readStop:
		case <-s.done:
		}
	}
}

// Write blocks while as many bytes are on their way as the link and the peer's reader take. It
// returns how many bytes it accepted; they arrive unless the stream fails.
func (s *Stream) Write(p []byte) (n int, err error) {
	if isClosed(s.writeBy.wait()) {
		return 0, os.ErrDeadlineExceeded
	}
	select {
	case s.writeTurn <- struct{}{}:
		defer func() { <-s.writeTurn }()
	case <-s.writeBy.wait():
		return 0, os.ErrDeadlineExceeded
	}
	for {
		m, err := s.put(p[n:])
		n += m
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

// CloseWrite ends this side's direction after the bytes that Write has accepted. It does not wait for
// the peer. A Write that is blocked fails.
func (s *Stream) CloseWrite() error {
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return s.err
	}
	if s.out.ending {
		s.mu.Unlock()
		return nil
	}
	s.out.ending = true
	s.stopWritesLocked(net.ErrClosed)
	s.mu.Unlock()

	s.writeTurn <- struct{}{} // the one that writes has been told to stop
	s.mu.Lock()
	if s.err == nil && !s.out.over {
		s.out.finSent = true
		s.session.control.say(s, message{kind: msgFin, value: s.out.sent})
	}
	s.mu.Unlock()
	<-s.writeTurn
	return nil
}

// Close ends both directions. It returns at once: what was written goes on to the peer in the
// background, for five minutes at most. What the peer still sends is dropped and its writes fail. A
// stream of the peer's that was neither accepted nor refused is refused.
func (s *Stream) Close() error {
	s.mu.Lock()
	if s.closed || s.err != nil {
		s.closed = true
		s.in.buf.discard()
		s.shrinkLocked(initialCredit)
		s.mu.Unlock()
		return nil
	}
	if !s.opener && !s.decided {
		s.mu.Unlock()
		return s.Reset(CodeClosed)
	}
	s.closed = true
	close(s.readStop)
	s.in.buf.discard()
	if s.released {
		s.shrinkLocked(initialCredit)
	}
	if !s.in.over {
		s.in.over = true
		s.session.control.say(s, message{kind: msgStop})
	}
	if !s.released {
		s.linger = time.AfterFunc(lingerLimit, func() { s.end(&StreamError{Code: CodeTimeout}, true) })
	}
	s.mu.Unlock()
	s.dropDatagrams()
	s.readBy.stop()
	s.writeBy.stop()
	_ = s.CloseWrite() // fails if the stream has failed meanwhile
	s.releaseIfOver()
	return nil
}

// Accept tells the peer, which opened the stream, that it is served. Data may flow before.
func (s *Stream) Accept() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.opener || s.decided {
		return s.err
	}
	s.decided = true
	if !s.released {
		s.session.control.say(s, message{kind: msgAccept})
	}
	return nil
}

// Refuse resets a stream that the peer opened, with a reason of at most 256 bytes.
func (s *Stream) Refuse(code uint32, reason string) error {
	return s.end(&StreamError{Code: code, Reason: reason[:min(len(reason), maxReason)]}, true)
}

// Reset ends both directions at once, here and at the peer. What is on its way, or has arrived and
// was not read, is lost.
func (s *Stream) Reset(code uint32) error {
	return s.end(&StreamError{Code: code}, true)
}

// Done is closed when the stream failed: either side reset it, or the session ended; and also when the peer has closed
// it and all it sent is here, while this side has not ended its direction: its writes fail, and it may not write soon.
func (s *Stream) Done() <-chan struct{} { return s.gone }

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

// failure returns why the stream failed, or nil.
func (s *Stream) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// lingers reports whether the owner has closed the stream.
func (s *Stream) lingers() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// end makes the stream fail with err, unless it has failed before. A reset also drops what is there
// to be read; the end of the session does not if that is all there will be. The peer is told of a
// reset if tell is set. It always returns nil.
func (s *Stream) end(err error, tell bool) error {
	s.mu.Lock()
	if s.err != nil || s.released && !tell {
		s.mu.Unlock()
		return nil
	}
	s.err = err
	if _, reset := err.(*StreamError); reset || !s.in.complete() {
		s.in.lost = true
		s.in.buf.discard()
		if s.released {
			s.shrinkLocked(initialCredit) // for what nobody will read
		}
	}
	s.in.over, s.out.over = true, true
	s.stopWritesLocked(err)
	close(s.done)
	if !isClosed(s.gone) { // a reset may come after the peer left
		close(s.gone)
	}
	if e, ok := err.(*StreamError); ok && tell && !s.released {
		s.session.control.say(s, message{kind: msgReset, value: uint64(e.Code), reason: e.Reason})
	}
	s.mu.Unlock()
	s.dropDatagrams()
	s.releaseIfOver()
	return nil
}

// handle deals with a message of the peer.
func (s *Stream) handle(m message) {
	switch m.kind {
	case msgAccept:
		s.mu.Lock()
		if s.opener && !s.granted {
			s.granted = true
			close(s.accepted)
		}
		s.mu.Unlock()
	case msgReset:
		s.end(&StreamError{Code: uint32(m.value), Reason: m.reason, Remote: true}, false)
	case msgFin:
		s.finished(m.value)
	case msgFinAck:
		s.mu.Lock()
		if s.out.finSent {
			s.out.over = true
		}
		s.mu.Unlock()
		s.releaseIfOver()
	case msgStop:
		s.mu.Lock()
		s.out.over = true
		s.stopWritesLocked(&StreamError{Code: CodeClosed, Remote: true})
		s.mu.Unlock()
		s.releaseIfOver()
	case msgCredit:
		s.mu.Lock()
		s.out.limit = max(s.out.limit, m.value)
		s.mu.Unlock()
		signal(s.credited)
	}
}

// releaseIfOver gives the conversation up when neither side needs it any more.
func (s *Stream) releaseIfOver() {
	s.mu.Lock()
	if s.released || !s.in.over || !s.out.over {
		s.mu.Unlock()
		return
	}
	s.released = true
	if s.err == nil && !s.closed && !s.out.ending {
		close(s.gone) // the session, which forgets the stream, will not tell of its own end
	}
	s.shrinkLocked(max(s.in.buf.bytes, initialCredit))
	if s.linger != nil {
		s.linger.Stop()
	}
	s.mu.Unlock()
	s.conv.close()
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
