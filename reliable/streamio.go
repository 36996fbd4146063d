package reliable

import (
	"io"
	"net"
	"os"
)

// Read returns io.EOF after the last byte that the peer wrote before it ended its direction.
func (s *Stream) Read(p []byte) (int, error) {
	if err := s.turn(s.readTurn, &s.readBy); err != nil {
		return 0, err
	}
	defer func() { <-s.readTurn }()
	for {
		s.mu.Lock()
		n, err, ready := s.readLocked(p)
		s.mu.Unlock()
		if ready {
			return n, err
		}
		if err := s.awaitRead(); err != nil {
			return 0, err
		}
	}
}

// mostLent is how many bytes WriteTo hands over at a time.
const mostLent = 128 << 10

// CopyTo writes to w what the peer sends, without a copy of its own, until the peer's direction ends or w fails. Both
// errors are nil at the proper end; readErr is what Read would return, writeErr that of w. What w did not take counts
// as unread. A w that blocks holds nothing up but this stream.
func (s *Stream) CopyTo(w io.Writer) (n int64, readErr, writeErr error) {
	if err := s.turn(s.readTurn, &s.readBy); err != nil {
		return 0, err, nil
	}
	defer func() { <-s.readTurn }()
	switch w.(type) {
	case *net.TCPConn, *net.UnixConn: // they take many buffers at once
	default:
		// A type that embeds one of these has its unexported method for that, too, which would pass by a Write of its own.
		w = struct{ io.Writer }{w}
	}
	var bufs, spare net.Buffers
	for {
		s.mu.Lock()
		if _, err, ready := s.readLocked(nil); ready && err != nil {
			s.mu.Unlock()
			if err == io.EOF {
				err = nil
			}
			return n, err, nil
		}
		if s.in.buf.bytes == 0 {
			s.in.wanted = true
			s.mu.Unlock()
			if err := s.awaitRead(); err != nil {
				return n, err, nil
			}
			continue
		}
		spare = s.in.buf.peek(spare[:0], mostLent)
		s.in.buf.lent = true
		s.mu.Unlock()
		bufs = spare
		m, err := bufs.WriteTo(w) // in one system call where w is a socket
		n += m
		s.mu.Lock()
		s.in.buf.lent = false
		if !s.in.unwanted {
			s.in.buf.skip(int(m))
			s.in.consumed += uint64(m)
			s.creditLocked()
		}
		s.mu.Unlock()
		clear(spare)
		if err != nil {
			return n, nil, err
		}
	}
}

// turn takes a turn to read or write, or fails because a deadline has passed.
func (s *Stream) turn(turn chan struct{}, by *deadline) error {
	if isClosed(by.wait()) {
		return os.ErrDeadlineExceeded
	}
	select {
	case turn <- struct{}{}:
		return nil
	case <-by.wait():
		return os.ErrDeadlineExceeded
	}
}

// awaitRead waits until a look at what is to be read is worth it.
func (s *Stream) awaitRead() error {
	select {
	case <-s.readable:
	case <-s.readBy.wait():
		return os.ErrDeadlineExceeded
	case <-s.readStop:
	}
	return nil
}

// Write blocks while as many bytes are on their way as the link and the peer's reader take. It
// returns how many bytes it accepted; they arrive unless the session ends, or the peer wants no more.
func (s *Stream) Write(p []byte) (n int, err error) {
	if err := s.turn(s.writeTurn, &s.writeBy); err != nil {
		return 0, err
	}
	defer func() { <-s.writeTurn }()
	for {
		m, err := s.put(p[n:])
		n += m
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

// AwaitWrite blocks until a Write of at least one byte would not, so that its bytes need not be held meanwhile. It
// returns about how many, or what Write would return.
func (s *Stream) AwaitWrite() (int, error) {
	if err := s.turn(s.writeTurn, &s.writeBy); err != nil {
		return 0, err
	}
	defer func() { <-s.writeTurn }()
	for {
		n, err := s.roomToWrite()
		if n > 0 || err != nil {
			return n, err
		}
		if err := s.awaitRoom(n == noCredit); err != nil {
			return 0, err
		}
	}
}
