package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// A direction starts with a small buffer and gets a large one for as long as its reads fill it, so
// that many idle connections cost little and a bulk transfer few calls.
const (
	smallBytes = 8 << 10
	largeBytes = 128 << 10

	// lastWrites is how long a connection may take over the last bytes of a stream whose session has ended.
	lastWrites = 5 * time.Second
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBytes]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBytes]byte) }}
)

// copyBytes copies from r to w until r ends (nil) or either fails. It does not use io.Copy: ReadFrom
// and WriteTo of net.TCPConn allocate a buffer of their own where they cannot splice.
func copyBytes(w io.Writer, r io.Reader) (int64, error) {
	small := smallBuffers.Get().(*[smallBytes]byte)
	var large *[largeBytes]byte
	defer func() {
		smallBuffers.Put(small)
		if large != nil {
			largeBuffers.Put(large)
		}
	}()
	buf := small[:]
	var total int64
	for {
		n, err := r.Read(buf)
		if n > 0 {
			m, werr := w.Write(buf[:n])
			total += int64(m)
			if werr == nil && m < n {
				werr = io.ErrShortWrite
			}
			if werr != nil {
				return total, werr
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return total, nil
		case err != nil:
			return total, err
		case large == nil && n == smallBytes:
			large = largeBuffers.Get().(*[largeBytes]byte)
			buf = large[:]
		case large != nil && n < smallBytes/2:
			largeBuffers.Put(large)
			large, buf = nil, small[:]
		}
	}
}

// A conn is a connection whose directions end alone: *net.TCPConn or *net.UnixConn.
type conn interface {
	net.Conn
	CloseWrite() error
}

// abort closes c so that a TCP peer sees a reset; a unix socket has none, its peer sees the end.
func abort(c net.Conn) {
	if t, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = t.SetLinger(0) // fails on a connection that is dead already
	}
	_ = c.Close() // there is nothing to do about it
}

var errLeft = errors.New("the peer has closed it")

// join copies both ways between c and st until both directions have ended (nil), or one failed or ctx
// did: then both sides are reset. It owns c and st, and returns the bytes from c to st and back.
//
// Where st fails and nobody reads from it, because its end has come or c takes nothing, st.Done tells: c may be silent
// for ever.
//
// Nothing is read from st before ready, which may be nil, has returned without an error; c's bytes go
// out at once.
func join(ctx context.Context, c conn, st Stream, ready func() error) (sent, received int64, err error) {
	var mu sync.Mutex
	var failed bool
	var why error // guarded by mu
	fail := func(err error, code uint32) {
		mu.Lock()
		first := !failed
		failed = true
		// A write may see a refused stream before WaitAccepted tells what happened.
		var refused *RefusedError
		if first || errors.As(err, &refused) {
			why = err
		}
		mu.Unlock()
		if first {
			_ = st.Reset(code) // it may be what failed
			abort(c)
		}
	}
	stop := context.AfterFunc(ctx, func() { fail(context.Cause(ctx), CodeCanceled) })
	defer stop()

	sending, receiving := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sending)
		var err error
		if sent, err = copyBytes(st, c); err == nil {
			err = st.CloseWrite()
		}
		if err != nil {
			fail(err, CodeReset)
		}
	}()
	go func() {
		defer close(receiving)
		var err error
		if ready != nil {
			err = ready()
		}
		if err == nil {
			received, err = copyBytes(c, st)
		}
		if err != nil {
			fail(err, CodeReset)
			return
		}
		// On a dead connection this fails; then the other direction knows, or has ended well.
		_ = c.CloseWrite()
	}()
	if !both(sending, receiving, st.Done()) {
		err := st.CloseWrite() // says why it failed
		if err == nil {
			err = errLeft
		}
		fail(err, CodeReset)
		<-sending
		<-receiving
	}

	mu.Lock()
	defer mu.Unlock()
	if !failed {
		_ = c.Close()  // both directions have ended
		_ = st.Close() // the same
	}
	return sent, received, why
}

// both returns true when both directions have ended, or false when they will not because the stream has failed.
func both(sending, receiving, failed <-chan struct{}) bool {
	select {
	case <-receiving:
	case <-failed:
		// At the end of a session all of the stream may be here and not be written yet.
		t := time.NewTimer(lastWrites)
		defer t.Stop()
		select {
		case <-receiving:
		case <-t.C:
			return false
		}
	}
	select {
	case <-sending:
		return true
	case <-failed:
	}
	select {
	case <-sending:
		return true
	default:
		return false
	}
}
