package reliable

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// An outgoing is the direction from this side. Stream.mu guards it.
type outgoing struct {
	sent   uint64 // bytes that kcp has taken, header included
	limit  uint64 // credit: what sent may grow to
	ending bool   // CloseWrite or a reset was called
	said   bool   // FIN or RESET was said
	over   bool   // the peer has all of it, or wants no more
	err    error  // why nothing can be written; set when writeStop is closed
}

// An incoming is the direction from the peer. Stream.mu guards it.
type incoming struct {
	buf        receiveBuffer
	received   uint64    // bytes from kcp, header included
	consumed   uint64    // of these, what was read or was the header
	limit      uint64    // credit given: what received may grow to
	window     int       // how much credit to give beyond consumed; what the account has for this direction
	crediting  bool      // a message with limit is queued
	creditedAt time.Time // when limit grew last
	behindAt   time.Time // since when much waits for the reader; zero if it does not
	final      uint64    // size of all, once FIN or RESET came
	hasFinal   bool
	over       bool  // all is here, or no more is wanted: the peer may forget it
	ended      bool  // nothing more comes for the reader
	unwanted   bool  // this side reads no more; buf stays empty
	err        error // what Read returns at the end in the place of io.EOF
	wanted     bool  // Read waits

	inHeader bool   // the header is not there yet
	header   []byte // with its length, as far as it is there
	arrived  bool   // the header is there and nobody was told
	broken   bool   // the peer sent what it may not
}

// complete reports whether all that the peer wrote has arrived.
func (i *incoming) complete() bool { return i.hasFinal && i.received >= i.final }

// What roomToWrite returns if there is none.
const (
	noCredit = 0  // the peer's reader holds the stream up
	noRoom   = -1 // the path does, or the memory of this side
)

// roomToWrite returns how many bytes may be written now, or what there is none of.
func (s *Stream) roomToWrite() (int, error) {
	s.mu.Lock()
	err := s.out.err
	n := int(min(writeChunk, s.out.limit-s.out.sent))
	s.mu.Unlock()
	if err != nil || n == 0 {
		return noCredit, err
	}
	if n = s.conv.writable(n); n == 0 {
		return noRoom, nil
	}
	return n, nil
}

// awaitRoom waits until a look at the room to write is worth it.
func (s *Stream) awaitRoom(credit bool) error {
	room := s.conv.room
	if credit {
		room = s.credited
	}
	select {
	case <-room:
		return nil
	case <-s.writeStop:
		return s.writeFailure()
	case <-s.writeBy.wait():
		return os.ErrDeadlineExceeded
	}
}

// put writes the first bytes of p, as many as the credit allows and kcp takes at a time, and blocks
// until that is at least one.
func (s *Stream) put(p []byte) (int, error) {
	s.mu.Lock()
	err := s.out.err
	n := int(min(uint64(len(p)), writeChunk, s.out.limit-s.out.sent))
	s.mu.Unlock()
	if err != nil || len(p) == 0 {
		return 0, err
	}
	if n == 0 {
		return 0, s.awaitRoom(true)
	}
	if n = s.conv.write(p[:n]); n == 0 {
		return 0, s.awaitRoom(false)
	}
	s.mu.Lock()
	s.out.sent += uint64(n)
	s.mu.Unlock()
	return n, nil
}

func (s *Stream) writeFailure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.err
}

// stopWritesLocked makes writes fail with err, those that are blocked too. A later reason does not
// replace a reset.
func (s *Stream) stopWritesLocked(err error) {
	if s.out.err == nil {
		close(s.writeStop)
	} else if _, reset := s.out.err.(*StreamError); reset {
		return
	}
	s.out.err = err
}

// resetWriteLocked ends this side's direction by a reset, after what kcp has taken.
func (s *Stream) resetWriteLocked(code uint32, reason string) {
	s.out.ending = true
	s.stopWritesLocked(&StreamError{Code: code, Reason: reason})
	if s.out.said || s.out.over {
		return
	}
	s.out.said = true
	s.session.control.say(s, message{kind: msgReset, value: s.out.sent, code: code, reason: reason})
}

// stopReadLocked ends the peer's direction here; reads return err.
func (s *Stream) stopReadLocked(code uint32, err error) {
	in := &s.in
	if in.unwanted {
		return
	}
	in.unwanted, in.ended, in.err = true, true, err
	in.buf.discard()
	s.shrinkLocked(0)
	if !in.over {
		in.over = true
		s.session.control.say(s, message{kind: msgStop, code: code})
	}
	close(s.readStop)
	s.doneLocked()
}

// readLocked moves bytes to p and gives credit for them. It is not ready if Read has to wait.
func (s *Stream) readLocked(p []byte) (n int, err error, ready bool) {
	in := &s.in
	switch {
	case s.closed:
		return 0, net.ErrClosed, true
	case in.unwanted:
		return 0, in.err, true
	case in.buf.bytes > 0:
		n = in.buf.read(p)
		in.consumed += uint64(n)
		s.creditLocked()
		return n, nil, true
	case in.ended && in.err != nil:
		return 0, in.err, true
	case in.ended:
		return 0, io.EOF, true
	case len(p) == 0:
		return 0, nil, true
	}
	in.wanted = true
	return 0, nil, false
}

// take is the conversation's sink. Credit bounds what it keeps.
func (s *Stream) take(p []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := &s.in
	if in.broken || in.ended && !in.unwanted {
		return true // behind the end
	}
	in.received += uint64(len(p))
	switch {
	case in.unwanted:
		in.consumed = in.received
		return true
	case in.hasFinal && in.received > in.final && in.err != nil: // the reset may name less than was on its way
		p = p[:uint64(len(p))-(in.received-in.final)]
		in.received = in.final
	case in.received > in.limit || in.hasFinal && in.received > in.final:
		in.broken = true
		return true
	}
	if in.inHeader {
		var n int
		var ok bool
		if in.header, n, ok = readHeader(in.header, p); !ok {
			in.broken = true
			return true
		}
		p = p[n:]
		in.consumed += uint64(n)
		if len(in.header) >= 2 && len(in.header) == 2+int(binary.BigEndian.Uint16(in.header)) {
			s.header = in.header[2:]
			in.inHeader, in.arrived, in.header = false, true, nil
		}
	}
	in.buf.write(p)
	s.completeLocked()
	return true
}

// came is called after take, without locks, and deals with what it found.
func (s *Stream) came() {
	s.mu.Lock()
	in := &s.in
	broken, arrived, over := in.broken && !in.unwanted, in.arrived && !in.unwanted, in.over && s.out.over
	in.arrived = false
	s.wakeReaderLocked()
	s.mu.Unlock()
	if broken {
		_ = s.Reset(CodeProtocol)
		return
	}
	if arrived {
		select {
		case s.session.accepts <- s:
		default:
			_ = s.Reset(CodeBusy)
			return
		}
	}
	if over {
		s.releaseIfOver()
	}
}

// wakeReaderLocked wakes a Read that waits if there is something for it.
func (s *Stream) wakeReaderLocked() {
	if in := &s.in; in.wanted && (in.buf.bytes > 0 || in.ended) {
		in.wanted = false
		signal(s.readable)
	}
}

// readHeader moves the bytes of p that belong to the header and says how many they are. It is not ok
// if the header is too long.
func readHeader(header, p []byte) (_ []byte, taken int, ok bool) {
	for len(p) > 0 {
		want := 2
		if len(header) >= 2 {
			size := int(binary.BigEndian.Uint16(header))
			if size > MaxHeader {
				return nil, 0, false
			}
			want = 2 + size
		}
		if len(header) == want {
			break
		}
		n := min(want-len(header), len(p))
		header = append(header, p[:n]...)
		p = p[n:]
		taken += n
	}
	if len(header) >= 2 && int(binary.BigEndian.Uint16(header)) > MaxHeader {
		return nil, 0, false
	}
	return header, taken, true
}

// finished notes how the peer's direction ends, and after how many bytes. It reports whether that is news.
func (s *Stream) finished(m message) bool {
	s.mu.Lock()
	in := &s.in
	reset := m.kind == msgReset
	if in.over || in.err != nil && !reset {
		s.mu.Unlock()
		return false
	}
	if m.value > in.limit || !reset && (m.value < in.received || in.hasFinal && m.value != in.final) {
		s.mu.Unlock()
		_ = s.Reset(CodeProtocol)
		return true
	}
	in.hasFinal, in.final = true, m.value
	if reset {
		in.err = &StreamError{Code: m.code, Reason: m.reason, Remote: true}
		s.doneLocked()
	}
	s.completeLocked()
	s.wakeReaderLocked()
	broken := in.broken
	aborted := reset && !s.opener && !s.decided
	s.mu.Unlock()
	if aborted && !s.session.control.aborts.Allow() {
		s.session.CloseWithError(fmt.Errorf("%w: a flood of streams that are reset at once", ErrProtocol))
		return true
	}
	if broken {
		_ = s.Reset(CodeProtocol)
	}
	s.releaseIfOver()
	return true
}

// completeLocked lets the peer forget its direction once all of it is here.
func (s *Stream) completeLocked() {
	if !s.in.over && s.in.complete() {
		s.in.over, s.in.ended = true, true
		s.in.broken = s.in.inHeader // it ended before its header
		s.session.control.say(s, message{kind: msgFinAck})
	}
}
