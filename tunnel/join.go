package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// lastWrites is how long a connection may take nothing of the last bytes of a stream that was reset, or whose
	// session has ended, until it is given up.
	lastWrites = 10 * time.Second

	// lastWritesTick is how often that is looked at.
	lastWritesTick = lastWrites / 10

	// mostUnsent is how many bytes a kernel may hold of a TCP connection beyond what the other end has room for. Linux
	// would take megabytes of each connection that nobody reads, in which time it takes its share of the path.
	mostUnsent = 128 << 10

	// How often the kernel is asked whether the last bytes have left: soon at first.
	minFlushTick = time.Millisecond
	maxFlushTick = 50 * time.Millisecond

	// blindFlush is how long the last bytes have where the kernel cannot be asked.
	blindFlush = 500 * time.Millisecond
)

// A conn is a connection whose directions end alone: *net.TCPConn or *net.UnixConn.
type conn interface {
	net.Conn
	CloseWrite() error
}

// abort closes c so that a TCP peer sees a reset; a unix socket has none, its peer sees the end.
func abort(c net.Conn) {
	holdEnd(c)
	_ = c.Close() // there is nothing to do about it
}

// holdEnd makes the system reset c, where that is TCP, if this process dies before leave: its peer must not take that for
// the end of what it was sent.
func holdEnd(c net.Conn) {
	if t, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = t.SetLinger(0) // fails on a connection that is dead already
	}
}

// leave closes c in good order.
func leave(c net.Conn) {
	if t, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = t.SetLinger(-1) // fails on a connection that is dead already
	}
	_ = c.Close() // there is nothing to do about it
}

// join copies both ways between c and st until both directions have ended, and closes both. Each direction ends as its
// source does, after the bytes before that, and alone as far as the two kinds of connection can tell:
//
//	c                                          st
//	its input ends                          -> CloseWrite
//	a read fails: c is gone                 -> ResetWrite, StopRead
//	a write fails: c takes nothing          -> StopRead; what c has sent is still read
//	CloseWrite                              <- the end
//	reset, when its kernel has the bytes    <- reset by the peer, or the session ended
//	what it sends is dropped                <- stopped by the peer; once the other direction is over, c is closed
//
// It returns nil if both directions came to their end, else what failed first, and the bytes from c to st and back.
// When ctx is done both are reset at once.
//
// Nothing is read from st before ready, which may be nil, has returned without an error; c's bytes go
// out at once.
func join(ctx context.Context, c conn, st Stream, ready func() error) (sent, received int64, err error) {
	j := &joint{c: c, st: st.(DuplexStream)} // else there is a fault in adit
	limitUnsent(c)
	holdEnd(c)
	sending, receiving := make(chan error, 1), make(chan error, 1) // one result each
	go func() {
		var err error
		sent, err = j.send()
		sending <- err
	}()
	go func() {
		var err error
		if ready != nil {
			err = ready()
		}
		if err == nil {
			received, err = j.receive()
		}
		receiving <- err
	}()
	err = j.wait(ctx, sending, receiving)
	_ = st.Close() // both directions have ended
	return sent, received, err
}

// A joint is a connection and a stream that are joined.
type joint struct {
	c  conn
	st DuplexStream

	ended atomic.Bool // c was told the end of the stream
	torn  atomic.Bool // a write to c failed in a way that makes its end no end
}

// wait returns when both directions have ended and c is closed.
func (j *joint) wait(ctx context.Context, sending, receiving <-chan error) error {
	var first error // what failed
	note := func(err error) {
		// A write may see a refused stream before WaitAccepted tells what happened.
		if first == nil || is[*RefusedError](err) {
			first = err
		}
	}
	cancelled, done, stopped := ctx.Done(), j.st.Done(), (<-chan struct{})(nil)
	var look <-chan time.Time // while the stream has failed and c still gets its last bytes
	unread, since := int64(0), time.Time{}
	closed := false
	end := func(how func(net.Conn)) {
		if !closed {
			closed = true
			how(j.c)
		}
	}
	defer func() { end(leave) }() // both directions have ended
	for sending != nil || receiving != nil {
		select {
		case err := <-sending:
			sending, stopped = nil, nil
			if closed && errors.Is(err, net.ErrClosed) {
				err = errLeft
			}
			note(err)
			if err != nil && receiving != nil && !is[stoppedError](err) {
				end(abort) // it is gone, or the session is; receive sees the same
			}
		case err := <-receiving:
			receiving, look = nil, nil
			note(err)
			switch {
			case err == nil:
				stopped = j.st.Stopped()
			case is[localError](err):
				// What c has sent is still read.
			default:
				j.flush(ctx)
				end(abort)
			}
		case <-stopped: // both directions of the stream are over
			stopped = nil
			if sending != nil {
				j.flush(ctx) // a close with unread input throws away what c has not got yet
				end(leave)
			}
		case <-done:
			done = nil
			if receiving != nil {
				t := time.NewTicker(lastWritesTick)
				defer t.Stop()
				look, unread, since = t.C, j.st.Unread(), time.Now()
			}
		case now := <-look:
			switch n := j.st.Unread(); {
			case n != unread:
				unread, since = n, now
			case now.Sub(since) >= lastWrites:
				look = nil
				end(abort)
			}
		case <-cancelled:
			cancelled = nil
			first = context.Cause(ctx)
			_ = j.st.Reset(CodeCanceled)
			end(abort)
		}
	}
	return first
}

var (
	// errTorn is the end of a direction whose sender was reset, which a write has learnt.
	errTorn = errors.New("connection reset")

	// errLeft is the end of a direction whose receiver has gone.
	errLeft = errors.New("the peer has closed it")
)

// A stoppedError is why the stream takes nothing more.
type stoppedError struct{ error }

func (e stoppedError) Unwrap() error { return e.error }

// A localError is a write to the connection that failed.
type localError struct{ error }

func (e localError) Unwrap() error { return e.error }

// is reports whether err is a T.
func is[T error](err error) bool {
	var t T
	return errors.As(err, &t)
}

// send carries what c gives to the stream.
func (j *joint) send() (int64, error) {
	n, readErr, writeErr := copyIn(j.st, j.c)
	switch {
	case writeErr != nil:
		if n, ok := j.c.(interface{ CloseRead() error }); ok && j.c.LocalAddr().Network() == "unix" {
			_ = n.CloseRead() // the other end's writes fail from now on; TCP has no such thing
		}
		// While c can write it can also read: what the stream still brings is not held up by what c has to say.
		_, _ = copyBytes(io.Discard, j.c) // to its end, or until it is closed
		return n, stoppedError{writeErr}
	case readErr == nil && j.isEnd():
		if err := j.st.CloseWrite(); err != nil { // the peer has said that it wants no more
			return n, stoppedError{err}
		}
		return n, nil
	case readErr == nil:
		readErr = errTorn
	}
	j.st.ResetWrite(CodeReset)
	j.st.StopRead(CodeReset)
	return n, readErr
}

// receive carries what the stream brings to c.
func (j *joint) receive() (int64, error) {
	n, readErr, writeErr := j.st.CopyTo(j.c)
	switch {
	case writeErr != nil:
		if !errors.Is(writeErr, syscall.EPIPE) {
			j.torn.Store(true)
		}
		j.st.StopRead(CodeReset)
		return n, localError{writeErr}
	case readErr != nil:
		return n, readErr
	}
	j.ended.Store(true)
	_ = j.c.CloseWrite() // on a dead connection this fails; then the other direction knows, or has ended well
	return n, nil
}

// isEnd reports whether the end of c's input is one. A reset is told once, to the read or the write that comes first: if
// that was the write, the read sees an end.
func (j *joint) isEnd() bool {
	return !j.torn.Load() && (j.ended.Load() || !wasReset(j.c))
}

// copyIn copies from c to st until c's input ends (both errors are nil) or either fails. While it waits it holds no
// buffer, where the system can tell that something is there.
func copyIn(st DuplexStream, c net.Conn) (total int64, readErr, writeErr error) {
	wait := func() error { return nil }
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn: // others may hold bytes of their own, of which the system knows nothing
		wait = waitReadable(c)
	}
	for large := false; ; {
		room, err := st.AwaitWrite()
		if err != nil {
			return total, nil, err
		}
		if err := wait(); err != nil {
			return total, err, nil
		}
		n, read, err := copyOnce(st, c, room, &large)
		total += int64(n)
		switch {
		case err != nil:
			return total, nil, err
		case errors.Is(read, io.EOF):
			return total, nil, nil
		case read != nil:
			return total, read, nil
		}
	}
}

// copyOnce copies what one Read gives, room bytes at most. It uses a large buffer while that is filled.
func copyOnce(st DuplexStream, c net.Conn, room int, large *bool) (n int, readErr, writeErr error) {
	var buf []byte
	if *large && room > 4*smallBytes { // else most of it would wait for room beside others

		b := largeBuffers.Get().(*[largeBytes]byte)
		defer largeBuffers.Put(b)
		buf = b[:]
	} else {
		b := smallBuffers.Get().(*[smallBytes]byte)
		defer smallBuffers.Put(b)
		buf = b[:]
	}
	buf = buf[:min(len(buf), room)]
	n, readErr = c.Read(buf)
	*large = n == len(buf) || *large && n >= smallBytes/2
	if n > 0 {
		n, writeErr = st.Write(buf[:n])
	}
	return n, readErr, writeErr
}

// flush waits until c's kernel has nothing left that the other end has not got, since a reset throws it away, or until
// nothing more leaves, or ctx is done. Where the system does not tell it waits for a moment.
func (j *joint) flush(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	least, since := -1, time.Now()
	for tick := minFlushTick; ; tick = min(2*tick, maxFlushTick) {
		n := unsent(j.c)
		switch {
		case n == 0, n < 0 && time.Since(since) >= blindFlush:
			return
		case n < 0:
			n = 1
		}
		if least < 0 || n < least {
			least, since = n, time.Now()
		}
		if time.Since(since) >= lastWrites {
			return
		}
		t.Reset(tick)
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
