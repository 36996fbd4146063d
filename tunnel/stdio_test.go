package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/testtier"
)

// outcome runs f and returns its error, or fails the test if it does not come.
func outcome(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatal("it does not return")
	}
	return nil
}

func async(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

func TestStdioEndsWithTheTarget(t *testing.T) {
	target, conns := service(t, "tcp", "127.0.0.1:0", nil)
	a, b := newSessions(t)
	serving(t, b, offering(target), Options{})
	in, keyboard := io.Pipe() // nobody types: Read blocks until the test ends
	defer keyboard.Close()
	var out bytes.Buffer
	done := async(func() error { return Stdio(t.Context(), a, Target{}, in, &out) })
	x := accepted(t, conns)
	if _, err := io.WriteString(keyboard, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(x, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	say(t, x, "bye", true)
	if err := outcome(t, done); err != nil || out.String() != "bye" {
		t.Fatalf("%q, %v; want bye", out.String(), err)
	}
	text(t, x, "")
}

func TestStdioInputEndsFirst(t *testing.T) {
	target, conns := service(t, "tcp", "127.0.0.1:0", nil)
	a, b := newSessions(t)
	serving(t, b, offering(target), Options{})
	var out bytes.Buffer
	done := async(func() error { return Stdio(t.Context(), a, target, strings.NewReader("question"), &out) })
	x := accepted(t, conns)
	text(t, x, "question")
	say(t, x, "answer", true)
	if err := outcome(t, done); err != nil || out.String() != "answer" {
		t.Fatalf("%q, %v; want the answer", out.String(), err)
	}
}

type broke struct{ err error }

func (b broke) Read([]byte) (int, error)  { return 0, b.err }
func (b broke) Write([]byte) (int, error) { return 0, b.err }

func TestStdioFails(t *testing.T) {
	target, conns := service(t, "tcp", "127.0.0.1:0", nil)
	a, b := newSessions(t)
	sink, seen := events()
	serving(t, b, offering(target), Options{OnStream: sink})
	boom := errors.New("boom")
	idle, keyboard := io.Pipe()
	defer keyboard.Close()

	t.Run("in", func(t *testing.T) {
		target, _ := service(t, "tcp", "127.0.0.1:0", echo)
		a, b := newSessions(t)
		serving(t, b, offering(target), Options{})
		done := async(func() error { return Stdio(t.Context(), a, target, broke{boom}, io.Discard) })
		if err := outcome(t, done); !errors.Is(err, boom) {
			t.Errorf("%v, want %v", err, boom)
		}
	})
	t.Run("out", func(t *testing.T) {
		done := async(func() error { return Stdio(t.Context(), a, target, idle, broke{boom}) })
		x := accepted(t, conns)
		opened(t, seen)
		say(t, x, "unwanted", false)
		var local *LocalError
		if err := outcome(t, done); !errors.Is(err, boom) || !errors.As(err, &local) {
			t.Errorf("%v, want a *LocalError with %v", err, boom)
		}
		wantReset(t, x)
		if e := next(t, seen); e.State != StateReset {
			t.Errorf("event %+v, want reset", e)
		}
	})
	t.Run("target", func(t *testing.T) {
		done := async(func() error { return Stdio(t.Context(), a, target, idle, io.Discard) })
		x := accepted(t, conns)
		opened(t, seen)
		abort(x)
		if err := outcome(t, done); err == nil {
			t.Error("no error after a reset")
		}
		if e := next(t, seen); e.State != StateReset {
			t.Errorf("event %+v, want reset", e)
		}
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		done := async(func() error { return Stdio(ctx, a, target, idle, io.Discard) })
		x := accepted(t, conns)
		opened(t, seen)
		cancel(boom)
		if err := outcome(t, done); !errors.Is(err, boom) {
			t.Errorf("%v, want the cause", err)
		}
		wantReset(t, x)
	})
	t.Run("session", func(t *testing.T) {
		a.Close()
		if err := Stdio(t.Context(), a, target, idle, io.Discard); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v, want net.ErrClosed", err)
		}
	})
}

// source gives n bytes and their sum.
type source struct {
	io.Reader
	sum hash.Hash
}

func newSource(seed, n int64) *source {
	h := sha256.New()
	return &source{io.TeeReader(io.LimitReader(rand.New(rand.NewSource(seed)), n), h), h}
}

// piped runs both ends of a pipe and returns how they ended.
func piped(t *testing.T, a, b Session, inA io.Reader, outA io.Writer, inB io.Reader, outB io.Writer) (x, y error) {
	t.Helper()
	first := async(func() error { return Pipe(t.Context(), a, true, inA, outA) })
	second := async(func() error { return Pipe(t.Context(), b, false, inB, outB) })
	return outcome(t, first), outcome(t, second)
}

func TestPipe(t *testing.T) {
	size := int64(64 << 20)
	if !testtier.IsLong() {
		size = 4 << 20
	}
	for _, c := range []struct {
		name     string
		fro, bac int64
	}{
		{"both ways", size, size}, {"one way", size, 0}, {"back", 0, size}, {"nothing", 0, 0}, {"a byte", 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := newSessions(t)
			inA, inB := newSource(1, c.fro), newSource(2, c.bac)
			outA, outB := sha256.New(), sha256.New()
			if x, y := piped(t, a, b, inA, outA, inB, outB); x != nil || y != nil {
				t.Fatalf("%v and %v, want no errors", x, y)
			}
			if !bytes.Equal(inA.sum.Sum(nil), outB.Sum(nil)) || !bytes.Equal(inB.sum.Sum(nil), outA.Sum(nil)) {
				t.Error("what came out is not what went in")
			}
		})
	}
}

// A side that returned may take the session down at once: the other has all it needs.
func TestPipeThenClose(t *testing.T) {
	for range 200 {
		a, b := newSessions(t)
		run := func(s *fakeSession, opener bool, in string, out io.Writer) error {
			defer s.Close()
			return Pipe(t.Context(), s, opener, strings.NewReader(in), out)
		}
		var outA, outB bytes.Buffer
		first := async(func() error { return run(a, true, "to b", &outA) })
		second := async(func() error { return run(b, false, "to a", &outB) })
		if x, y := outcome(t, first), outcome(t, second); x != nil || y != nil || outA.String() != "to a" || outB.String() != "to b" {
			t.Fatalf("%v and %v, %q and %q", x, y, outA.String(), outB.String())
		}
	}
}

func TestPipeFails(t *testing.T) {
	boom := errors.New("boom")
	idle, keyboard := io.Pipe()
	defer keyboard.Close()
	t.Run("out", func(t *testing.T) {
		a, b := newSessions(t)
		if x, y := piped(t, a, b, newSource(1, 1<<20), io.Discard, idle, broke{boom}); !errors.Is(x, ErrPipe) || !errors.Is(y, boom) {
			t.Errorf("%v and %v, want %v and %v", x, y, ErrPipe, boom)
		}
	})
	t.Run("in", func(t *testing.T) {
		a, b := newSessions(t)
		if x, y := piped(t, a, b, broke{boom}, io.Discard, idle, io.Discard); !errors.Is(x, boom) || !errors.Is(y, ErrPipe) {
			t.Errorf("%v and %v, want %v and %v", x, y, boom, ErrPipe)
		}
	})
	t.Run("context", func(t *testing.T) {
		a, b := newSessions(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		first := async(func() error { return Pipe(ctx, a, true, idle, io.Discard) })
		second := async(func() error { return Pipe(t.Context(), b, false, idle, io.Discard) })
		cancel(boom)
		if err := outcome(t, first); !errors.Is(err, boom) {
			t.Errorf("%v, want the cause", err)
		}
		b.Close() // the stream may never have come
		if err := outcome(t, second); err == nil {
			t.Error("no error at the peer")
		}
	})
	t.Run("no pipe there", func(t *testing.T) {
		a, b := newSessions(t)
		serving(t, b, offeringAll(), Options{})
		var refused *RefusedError
		if err := Pipe(t.Context(), a, true, idle, io.Discard); !errors.As(err, &refused) || refused.Code != CodeRefused {
			t.Errorf("%v, want a refusal", err)
		}
	})
	t.Run("waits among other streams", func(t *testing.T) {
		a, b := newSessions(t)
		var out bytes.Buffer
		done := async(func() error { return Pipe(t.Context(), b, false, strings.NewReader(""), &out) })
		var refused *RefusedError
		if err := Stdio(t.Context(), a, Target{Host: "localhost", Port: 22}, idle, io.Discard); !errors.As(err, &refused) {
			t.Errorf("%v, want a refusal", err)
		}
		if err := Pipe(t.Context(), a, true, strings.NewReader("now"), io.Discard); err != nil {
			t.Error(err)
		}
		if err := outcome(t, done); err != nil || out.String() != "now" {
			t.Errorf("%q, %v", out.String(), err)
		}
	})
	t.Run("a peer that makes no sense", func(t *testing.T) {
		for _, frames := range []string{"\xff\xff\xff\xff", "\x00\x01\x00\x01", "\x00\x00\x00\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x01x", "\x00\x00\x00\x05abc", "\x00"} {
			a, b := newSessions(t)
			done := async(func() error { return Pipe(t.Context(), b, false, idle, io.Discard) })
			st, err := a.Open(t.Context(), header{kind: kindPipe}.encode())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(st, frames) // the other side tells
			_ = st.CloseWrite()
			if err := outcome(t, done); !errors.Is(err, ErrPipe) {
				t.Errorf("frames %q: %v, want %v", frames, err, ErrPipe)
			}
		}
	})
}

// A turningAway is a session whose peer ends a stream before what it said of it was read.
type turningAway struct {
	Stream
	reset atomic.Bool
}

type oneStream struct {
	Session
	stream Stream
}

func (s oneStream) Open(context.Context, []byte) (Stream, error) { return s.stream, nil }

func (s *turningAway) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
func (s *turningAway) Reset(uint32) error        { s.reset.Store(true); return nil }
func (s *turningAway) WaitAccepted(context.Context) error {
	synctest.Wait() // whoever writes has failed by now
	if s.reset.Load() {
		return io.EOF
	}
	return &RefusedError{Code: CodeRefused, Reason: "no"}
}

// Where a write fails because the stream was refused, the refusal is what is told.
func TestStdioTellsRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := Stdio(t.Context(), oneStream{stream: &turningAway{}}, Target{}, strings.NewReader("x"), io.Discard)
		var refused *RefusedError
		if !errors.As(err, &refused) {
			t.Errorf("got %v, want a refusal", err)
		}
	})
}
