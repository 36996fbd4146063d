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
	buf       receiveBuffer
	received  uint64 // bytes from kcp, header included
	consumed  uint64 // of these, what was read or was the header
	limit     uint64 // credit given: what received may grow to
	window    int    // how much credit to give beyond consumed
	crediting bool   // a message with limit is queued
	final     uint64 // size of all, once FIN came
	hasFinal  bool
	over      bool // all is there, or no more is wanted
	lost      bool // what was there was dropped
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
	s.session.gov.touch(s.conv)
	n, err = s.conv.kcp.Write(p[:n]) // all or nothing
	if err != nil {
		if isClosed(s.writeStop) {
			return 0, s.writeFailure()
		}
		if isClosed(s.writeBy.wait()) {
			return 0, os.ErrDeadlineExceeded
		}
		if isClosed(s.conv.ended) {
			return 0, net.ErrClosed
		}
		return 0, nil // the deadline was moved meanwhile, or our timer is a moment behind kcp's
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
		_ = s.conv.kcp.SetWriteDeadline(time.Unix(1, 0)) // never fails
	} else if _, reset := s.out.err.(*StreamError); reset {
		return
	}
	s.out.err = err
}

// take moves bytes to p and gives credit for them. It is not ready if Read has to wait.
func (s *Stream) take(p []byte) (n int, err error, ready bool) {
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
	return 0, nil, false
}

// creditLocked lets the peer send more when half of its credit is used. As long as the reader keeps up
// with what comes, the credit grows, so that it does not limit a fast path; a slow reader gets no more
// than it began with.
func (s *Stream) creditLocked() {
	in := &s.in
	if in.over || in.hasFinal || in.limit-in.consumed > uint64(in.window/2) {
		return
	}
	if in.buf.bytes < in.window/4 {
		in.window = min(2*in.window, s.session.cfg.MaxBuffer)
	}
	in.limit = in.consumed + uint64(in.window)
	if !in.crediting {
		in.crediting = true
		s.session.control.say(s, message{kind: msgCredit}) // with the limit of the moment it is sent
	}
}

func (s *Stream) takeCredit() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in.crediting = false
	return s.in.limit
}

// receive moves what kcp has into the buffer until the conversation ends. The credit bounds it, so
// kcp's own window is never shut.
func (s *Stream) receive() {
	defer func() {
		s.mu.Lock()
		s.in.buf.release()
		s.mu.Unlock()
	}()
	var header []byte // with its length, as far as it is there
	reading := !s.opener
	for {
		s.mu.Lock()
		room := s.in.buf.room()
		s.mu.Unlock()
		n, err := s.conv.kcp.Read(room)
		if err != nil {
			return // closed
		}
		skip := 0
		if reading {
			var ok bool
			if header, skip, ok = readHeader(header, room[:n]); !ok {
				_ = s.Reset(CodeProtocol)
				return
			}
			reading = len(header) < 2 || len(header) < 2+int(binary.BigEndian.Uint16(header))
		}
		if !s.arrived(skip, n) {
			_ = s.Reset(CodeProtocol)
			return
		}
		if skip > 0 && !reading {
			s.header = header[2:]
			select {
			case s.session.accepts <- s:
			default:
				_ = s.Reset(CodeBusy)
				return
			}
		}
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

// arrived publishes n bytes in the room, of which the first skip are the header's. It reports false if
// the peer may not have sent them.
func (s *Stream) arrived(skip, n int) bool {
	s.mu.Lock()
	in := &s.in
	if s.err != nil {
		s.mu.Unlock()
		return true
	}
	in.received += uint64(n)
	if in.received > in.limit && !in.over || in.hasFinal && in.received > in.final {
		s.mu.Unlock()
		return false
	}
	if in.over { // Close does not want it
		in.consumed += uint64(n)
		s.mu.Unlock()
		return true
	}
	in.buf.filled(skip, n)
	in.consumed += uint64(skip)
	s.completeLocked()
	s.mu.Unlock()
	signal(s.readable)
	s.releaseIfOver()
	return true
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
	s.mu.Unlock()
	signal(s.readable)
	s.releaseIfOver()
}

// completeLocked lets the peer forget its direction once all of it is here.
func (s *Stream) completeLocked() {
	if !s.in.over && s.in.complete() {
		s.in.over = true
		s.session.control.say(s, message{kind: msgFinAck})
	}
}
