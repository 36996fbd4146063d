package reliable

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"time"
)

// An outgoing is the direction from this side. Stream.mu guards it.
type outgoing struct {
	sent    uint64 // bytes that kcp has taken, header included
	limit   uint64 // credit: what sent may grow to
	ending  bool   // CloseWrite was called
	finSent bool
	over    bool  // the peer has all of it, or wants no more
	err     error // why nothing can be written; set when writeStop is closed
}

// An incoming is the direction from the peer. Stream.mu guards it.
type incoming struct {
	buf        receiveBuffer
	received   uint64    // bytes from kcp, header included
	consumed   uint64    // of these, what was read or was the header
	limit      uint64    // credit given: what received may grow to
	window     int       // how much credit to give beyond consumed
	crediting  bool      // a message with limit is queued
	creditedAt time.Time // when limit grew last
	behindAt   time.Time // since when much waits for the reader; zero if it does not
	final      uint64    // size of all, once FIN came
	hasFinal   bool
	over       bool // all is there, or no more is wanted
	lost       bool // what was there was dropped
	wanted     bool // Read waits

	inHeader bool   // the header is not there yet
	header   []byte // with its length, as far as it is there
	arrived  bool   // the header is there and nobody was told
	broken   bool   // the peer sent what it may not
}

// complete reports whether all that the peer wrote has arrived.
func (i *incoming) complete() bool { return i.hasFinal && i.received == i.final }

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
		select {
		case <-s.credited:
			return 0, nil
		case <-s.writeStop:
			return 0, s.writeFailure()
		case <-s.writeBy.wait():
			return 0, os.ErrDeadlineExceeded
		}
	}
	if n = s.conv.write(p[:n]); n == 0 {
		select {
		case <-s.conv.room:
			return 0, nil
		case <-s.writeStop:
			return 0, s.writeFailure()
		case <-s.writeBy.wait():
			return 0, os.ErrDeadlineExceeded
		}
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

// readNow moves bytes to p and gives credit for them. It is not ready if Read has to wait.
func (s *Stream) readNow(p []byte) (n int, err error, ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := &s.in
	switch {
	case s.closed:
		return 0, net.ErrClosed, true
	case s.err != nil && in.lost:
		return 0, s.err, true
	case len(p) == 0:
		return 0, nil, true
	case in.buf.bytes > 0:
		n = in.buf.read(p)
		in.consumed += uint64(n)
		s.creditLocked()
		return n, nil, true
	case in.complete():
		return 0, io.EOF, true
	}
	in.wanted = true
	return 0, nil, false
}

// take is the conversation's sink. Credit bounds what it keeps.
func (s *Stream) take(p []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := &s.in
	if s.err != nil || in.broken {
		return true
	}
	in.received += uint64(len(p))
	if in.received > in.limit && !in.over || in.hasFinal && in.received > in.final {
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
	if in.over { // Close does not want it
		in.consumed += uint64(len(p))
		return true
	}
	in.buf.write(p)
	s.completeLocked()
	return true
}

// came is called after take, without locks, and deals with what it found.
func (s *Stream) came() {
	s.mu.Lock()
	in := &s.in
	broken, arrived, over := in.broken && s.err == nil, in.arrived, in.over && s.out.over
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
	if in := &s.in; in.wanted && (in.buf.bytes > 0 || in.complete()) {
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

// finished notes the size of the peer's direction.
func (s *Stream) finished(size uint64) {
	s.mu.Lock()
	in := &s.in
	if s.err != nil || in.over {
		s.mu.Unlock()
		return
	}
	if size < in.received || size > in.limit || in.hasFinal && size != in.final || !s.opener && size < 2 {
		s.mu.Unlock()
		_ = s.Reset(CodeProtocol)
		return
	}
	in.hasFinal, in.final = true, size
	s.completeLocked()
	s.wakeReaderLocked()
	s.mu.Unlock()
	s.releaseIfOver()
}

// completeLocked lets the peer forget its direction once all of it is here.
func (s *Stream) completeLocked() {
	if !s.in.over && s.in.complete() {
		s.in.over = true
		s.session.control.say(s, message{kind: msgFinAck})
	}
}
