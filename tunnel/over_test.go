package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/reliable"
)

// A wire is one end of a link in memory. What finds no room is lost.
type wire struct {
	to      chan []byte
	from    chan []byte
	mu      sync.Mutex
	handler func([]byte)
}

func (w *wire) SendFresh(flow uint32, p []byte) bool { return w.Send(flow, 0, p) }

func (w *wire) Send(_, _ uint32, p []byte) bool {
	select {
	case w.to <- bytes.Clone(p):
		return true
	default:
		return false
	}
}

func (w *wire) Receive(f func([]byte)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handler = f
}

func (w *wire) Forget(uint32)      {}
func (w *wire) Pending(uint32) int { return 1 << 20 }
func (w *wire) MTU() int           { return 1200 }
func (w *wire) Window(uint32) int  { return 1 << 20 }
func (w *wire) RTT() time.Duration { return time.Millisecond }

func (w *wire) run(ctx context.Context) {
	for {
		select {
		case p := <-w.from:
			w.mu.Lock()
			f := w.handler
			w.mu.Unlock()
			f(p)
		case <-ctx.Done():
			return
		}
	}
}

// reliableSessions returns two sessions of real streams, closed with the test.
func reliableSessions(t testing.TB) (a, b *reliable.Session) {
	x, y := make(chan []byte, 4096), make(chan []byte, 4096)
	wa, wb := &wire{to: x, from: y}, &wire{to: y, from: x}
	a = reliable.NewSession(wa, reliable.Config{Initiator: true})
	b = reliable.NewSession(wb, reliable.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { wa.run(ctx) })
	wg.Go(func() { wb.run(ctx) })
	t.Cleanup(func() {
		a.Close()
		b.Close()
		cancel()
		wg.Wait()
	})
	return a, b
}

func TestOverForward(t *testing.T) {
	target, conns := service(t, "tcp", "127.0.0.1:0", nil)
	a, b := reliableSessions(t)
	serving(t, Over(b), offering(target), Options{})
	l := listening(t, Over(a), "0", Options{})
	refusing := listening(t, Over(a), "0:localhost:1", Options{})

	c := dialed(t, l.Addr())
	x := accepted(t, conns)
	say(t, c, "question", true)
	text(t, x, "question")
	say(t, x, "answer", true)
	text(t, c, "answer")

	c = dialed(t, l.Addr())
	x = accepted(t, conns)
	say(t, x, "greeting", true)
	text(t, c, "greeting")
	say(t, c, "late", true)
	text(t, x, "late")

	for _, fromClient := range []bool{true, false} {
		c, x = dialed(t, l.Addr()), accepted(t, conns)
		say(t, c, "there", false)
		if _, err := io.ReadFull(x, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		if fromClient {
			c, x = x, c
		}
		abort(x)
		wantReset(t, c)
	}
	dialReset(t, refusing.Addr())
}

// A stream that the peer gives up after its end is given up here too, however silent the target is.
func TestOverGivenUp(t *testing.T) {
	for _, test := range []struct {
		name   string
		giveUp func(st Stream, s *reliable.Session)
	}{
		{"reset", func(st Stream, _ *reliable.Session) { _ = st.Reset(CodeReset) }},
		{"closed", func(st Stream, _ *reliable.Session) { _ = st.Close() }},
		{"end of the session", func(_ Stream, s *reliable.Session) { s.Close() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			target, conns := service(t, "tcp", "127.0.0.1:0", nil)
			a, b := reliableSessions(t)
			sink, seen := events()
			serving(t, Over(b), offering(target), Options{OnStream: sink})
			st, err := Over(a).Open(t.Context(), headerTo(target).encode())
			if err != nil {
				t.Fatal(err)
			}
			if err := st.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			text(t, accepted(t, conns), "")
			opened(t, seen)
			test.giveUp(st, a)
			if e := next(t, seen); e.State != StateReset || e.Reason == "" {
				t.Errorf("event %+v, want reset with a reason", e)
			}
		})
	}
}

// Where the target has ended its direction the end of the session ends the connection of a silent client.
func TestOverHalfClosedAtTheEnd(t *testing.T) {
	target, conns := service(t, "tcp", "127.0.0.1:0", nil)
	a, b := reliableSessions(t)
	serving(t, Over(b), offering(target), Options{})
	sink, seen := events()
	l := listening(t, Over(a), "0", Options{OnStream: sink})
	c := dialed(t, l.Addr())
	say(t, accepted(t, conns), "bye", true)
	text(t, c, "bye")
	opened(t, seen)
	a.Close()
	if e := next(t, seen); e.State != StateReset || e.Received != 3 {
		t.Errorf("event %+v, want reset after 3 bytes", e)
	}
}

func TestOverStdio(t *testing.T) {
	target, _ := service(t, "tcp", "127.0.0.1:0", echo)
	a, b := reliableSessions(t)
	serving(t, Over(b), offering(target), Options{})
	const size = 8 << 20
	in, out := newSource(1, size), sha256.New()
	done := async(func() error { return Stdio(t.Context(), Over(a), Target{}, in, out) })
	if err := outcome(t, done); err != nil || !bytes.Equal(in.sum.Sum(nil), out.Sum(nil)) {
		t.Errorf("%v, or another sum", err)
	}
	var refused *RefusedError
	err := Stdio(t.Context(), Over(a), Target{Host: "localhost", Port: 1}, bytes.NewReader(nil), io.Discard)
	if !errors.As(err, &refused) || refused.Code != CodeRefused || !strings.HasPrefix(refused.Reason, "localhost:1 is not offered") {
		t.Errorf("%v, want a refusal with its reason", err)
	}
}

// Each side takes its session down as soon as its Pipe returns.
func TestOverPipe(t *testing.T) {
	for _, size := range []int64{0, 1, 16 << 20} {
		a, b := reliableSessions(t)
		inA, inB := newSource(1, size), newSource(2, size/2)
		outA, outB := sha256.New(), sha256.New()
		first := async(func() error { defer a.Close(); return Pipe(t.Context(), Over(a), true, inA, outA) })
		second := async(func() error { defer b.Close(); return Pipe(t.Context(), Over(b), false, inB, outB) })
		if x, y := outcome(t, first), outcome(t, second); x != nil || y != nil {
			t.Fatalf("%v and %v, want no errors", x, y)
		}
		if !bytes.Equal(inA.sum.Sum(nil), outB.Sum(nil)) || !bytes.Equal(inB.sum.Sum(nil), outA.Sum(nil)) {
			t.Error("what came out is not what went in")
		}
	}
}

func TestOverManyConnections(t *testing.T) {
	target, _ := service(t, "tcp", "127.0.0.1:0", echo)
	a, b := reliableSessions(t)
	serving(t, Over(b), offering(target), Options{})
	l := listening(t, Over(a), "0", Options{})
	manyConnections(t, l.Addr(), 200, 10<<10)
}
