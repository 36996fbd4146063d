package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"adit/tunnel"
)

const (
	// streamsAtOnce and streamsInAll bound what one session may ask for: one phase at a time, beside
	// those of the last that it has not heard the end of, and a few phases in all.
	streamsAtOnce = 2 * (MaxParallel + 1)
	streamsInAll  = 64

	// grace is how long after its time a stream may take to end.
	grace = 2 * time.Second

	bufferBytes = 128 << 10
)

// A Server serves the measuring streams of one session. It works for as long as it was asked to, at
// most MaxDuration for each stream, at most 18 streams at a time and 64 in all.
type Server struct {
	counters func() Counters
	start    time.Time
	sunk     atomic.Uint64

	mu   sync.Mutex
	busy int // streams being served
	all  int // streams that were
}

// NewServer returns a Server that reports what counters returns, which any goroutine may call.
func NewServer(counters func() Counters) *Server {
	return &Server{counters: counters, start: time.Now()}
}

// Serve serves one stream that a peer opened with request, and returns when it has ended: when the time
// or the bytes asked for are used up, the peer has ended it, or ctx is done. It is a tunnel.Policy's
// Bench.
func (s *Server) Serve(ctx context.Context, st tunnel.Stream, b []byte) {
	r, err := parseRequest(b)
	if err != nil {
		refuse(st, tunnel.CodeUsage, err)
		return
	}
	if err := s.enter(); err != nil {
		refuse(st, tunnel.CodeRefused, err)
		return
	}
	defer s.leave()
	if st.Accept() != nil {
		_ = st.Reset(tunnel.CodeReset) // most likely the peer did
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = st.Reset(tunnel.CodeCanceled) })
	defer stop()
	end := time.Now().Add(r.duration)
	_ = st.SetDeadline(end.Add(grace)) // a stream that failed says so below
	switch r.mode {
	case source:
		err = s.source(st, r.bytes, end)
	case sink:
		err = s.sink(st, r.bytes)
	case echo:
		err = s.echo(st, r.bytes)
	}
	if err == nil {
		err = st.Close()
	}
	if err != nil {
		_ = st.Reset(tunnel.CodeCanceled) // out of time, or the peer has had enough
	}
}

func refuse(st tunnel.Stream, code uint32, err error) {
	if st.Refuse(code, err.Error()) != nil {
		_ = st.Reset(tunnel.CodeReset) // most likely the peer did
	}
}

func (s *Server) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.busy >= streamsAtOnce:
		return fmt.Errorf("%d streams at a time are measured, no more", streamsAtOnce)
	case s.all >= streamsInAll:
		return fmt.Errorf("%d streams of a session are measured, no more: meet again", streamsInAll)
	}
	s.busy++
	s.all++
	return nil
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
}

// source sends until end and waits for the peer to end its direction, so that nothing of it is left
// behind in the session.
func (s *Server) source(st tunnel.Stream, bytes uint64, end time.Time) error {
	_ = st.SetWriteDeadline(end)
	if err := fill(st, bytes); err != nil && !late(err) {
		return err
	}
	if err := st.CloseWrite(); err != nil {
		return err
	}
	var b [1]byte
	if _, err := st.Read(b[:]); !errors.Is(err, io.EOF) {
		return fmt.Errorf("a source was sent data: %v", err)
	}
	return nil
}

// sink reads until the peer ends its direction.
func (s *Server) sink(st tunnel.Stream, bytes uint64) error {
	buf := buffers.Get().(*[bufferBytes]byte)
	defer buffers.Put(buf)
	for bytes > 0 {
		n, err := st.Read(buf[:min(bytes, bufferBytes)])
		s.sunk.Add(uint64(n))
		bytes -= uint64(n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// echo answers each message with a report, until the peer ends its direction.
func (s *Server) echo(st tunnel.Stream, bytes uint64) error {
	var b [messageBytes]byte
	for ; bytes >= messageBytes; bytes -= messageBytes {
		if _, err := io.ReadFull(st, b[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		r := parseReport(&b)
		r = report{seq: r.seq, clock: time.Since(s.start), sunk: s.sunk.Load(), link: s.counters()}
		r.put(&b)
		if _, err := st.Write(b[:]); err != nil {
			return err
		}
	}
	return nil
}

var buffers = sync.Pool{New: func() any { return new([bufferBytes]byte) }}

// noise is what is sent. Nothing in adit compresses; should something on the way, it gains nothing.
var noise = sync.OnceValue(func() []byte {
	b := make([]byte, bufferBytes)
	_, _ = rand.NewChaCha8([32]byte([]byte("the level passage by which a mine"))).Read(b) // never fails
	return b
})

// fill writes n bytes, or as many as the deadline of w lets it.
func fill(w io.Writer, n uint64) error {
	b := noise()
	for n > 0 {
		m, err := w.Write(b[:min(n, uint64(len(b)))])
		n -= uint64(m)
		if err != nil {
			return err
		}
	}
	return nil
}
