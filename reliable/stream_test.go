// In package reliable: this file looks at the credit and the buffers of a stream, to hold them to their
// bounds.

package reliable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"adit/internal/testtier"
)

func TestConn(t *testing.T) {
	for name, ends := range map[string]func(a, b *Stream) (net.Conn, net.Conn){
		"opener first":   func(a, b *Stream) (net.Conn, net.Conn) { return a, b },
		"acceptor first": func(a, b *Stream) (net.Conn, net.Conn) { return b, a },
	} {
		t.Run(name, func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				a, b := newSessions(t, new(wire), new(wire))
				c1, c2 = ends(newStreams(t, a, b))
				return c1, c2, func() { a.CloseWithError(nil); b.CloseWithError(nil) }, nil
			})
		})
	}
}

func data(n int, seed uint64) []byte {
	p := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// sends writes p in pieces and ends the direction.
func sends(t *testing.T, wg *sync.WaitGroup, s *Stream, p []byte) {
	wg.Go(func() {
		for rest := p; len(rest) > 0; {
			n := min(len(rest), 1+rand.N(60000))
			if _, err := s.Write(rest[:n]); err != nil {
				t.Errorf("write: %v", err)
				return
			}
			rest = rest[n:]
		}
		if err := s.CloseWrite(); err != nil {
			t.Errorf("close write: %v", err)
		}
	})
}

func receives(t *testing.T, wg *sync.WaitGroup, s *Stream, want []byte) {
	wg.Go(func() {
		h := sha256.New()
		n, err := io.Copy(h, s)
		if err != nil {
			t.Errorf("read: %v", err)
		}
		if sum := sha256.Sum256(want); n != int64(len(want)) || !bytes.Equal(h.Sum(nil), sum[:]) {
			t.Errorf("got %d bytes, want %d with the same checksum", n, len(want))
		}
	})
}

func TestBothWays(t *testing.T) {
	for name, w := range map[string]func() *wire{
		"perfect":   func() *wire { return new(wire) },
		"delayed":   func() *wire { return &wire{delay: 5 * time.Millisecond} },
		"lossy":     func() *wire { return &wire{delay: 2 * time.Millisecond, loss: 0.05} },
		"reordered": func() *wire { return &wire{delay: time.Millisecond, jitter: 5 * time.Millisecond} },
		"doubled":   func() *wire { return &wire{double: 0.3} },
		"all of it": func() *wire {
			return &wire{delay: time.Millisecond, jitter: 2 * time.Millisecond, loss: 0.1, double: 0.1}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newSessions(t, w(), w())
			from, to := newStreams(t, a, b)
			x, y := data(3<<20, 1), data(1<<20, 2)
			var wg sync.WaitGroup
			sends(t, &wg, from, x)
			receives(t, &wg, to, x)
			sends(t, &wg, to, y)
			receives(t, &wg, from, y)
			wg.Wait()
			waitFor(t, func() bool { return a.NumStreams() == 0 && b.NumStreams() == 0 })
		})
	}
}

// waitFor polls: there is no event for what happens at the peer's end of a session.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatal("what was waited for did not happen in 20 s")
		}
	}
}

func TestManyStreams(t *testing.T) {
	w := func() *wire { return &wire{delay: 2 * time.Millisecond, loss: 0.01} }
	a, b := newSessions(t, w(), w())
	const streams, size = 200, 100 << 10
	var wg sync.WaitGroup
	wg.Go(func() { // echoes
		for range streams {
			st, err := b.Accept(t.Context())
			if err != nil {
				t.Errorf("accept: %v", err)
				return
			}
			wg.Go(func() {
				_ = st.Accept()
				if _, err := io.Copy(struct{ io.Writer }{st}, st); err != nil {
					t.Errorf("echo: %v", err)
				}
				_ = st.Close()
			})
		}
	})
	for i := range streams {
		st, err := a.Open(t.Context(), []byte{byte(i)})
		if err != nil {
			t.Fatal(err)
		}
		p := data(size, uint64(i))
		sends(t, &wg, st, p)
		receives(t, &wg, st, p)
	}
	wg.Wait()
	waitFor(t, func() bool { return a.NumStreams() == 0 && b.NumStreams() == 0 })
}

func TestHalfClose(t *testing.T) {
	a, b := newSessions(t, new(wire), new(wire))
	from, to := newStreams(t, a, b)
	if _, err := from.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := from.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := from.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after CloseWrite: got %v, want net.ErrClosed", err)
	}
	if got, err := io.ReadAll(to); string(got) != "question" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := to.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(from); string(got) != "answer" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	waitFor(t, func() bool { return a.NumStreams() == 0 && b.NumStreams() == 0 })
}

// All that was written before Close arrives, though the first packets are lost and the control
// conversation overtakes them.
func TestCloseLingers(t *testing.T) {
	ab := &wire{delay: 5 * time.Millisecond, jitter: 20 * time.Millisecond, loss: 0.3}
	a, b := newSessions(t, ab, &wire{loss: 0.3})
	n := 5
	if testtier.IsLong() {
		n = 20
	}
	for i := range n {
		p := data(12000, uint64(i)) // within the initial credit
		st, err := a.Open(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Write(p); err != nil {
			t.Fatal(err)
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after Close: got %v, want net.ErrClosed", err)
		}
		in, err := b.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = in.Accept()
		if got, err := io.ReadAll(in); !bytes.Equal(got, p) || err != nil {
			t.Fatalf("stream %d: got %d bytes and %v, want %d", i, len(got), err, len(p))
		}
		_ = in.Close()
	}
	waitFor(t, func() bool { return a.NumStreams() == 0 && b.NumStreams() == 0 })
}

func TestWriteToClosedReader(t *testing.T) {
	a, b := newSessions(t, new(wire), new(wire))
	from, to := newStreams(t, a, b)
	_ = to.Close()
	var err error
	for err == nil {
		_, err = from.Write(make([]byte, 10000))
	}
	var reset *StreamError
	if !errors.As(err, &reset) || reset.Code != CodeClosed || !reset.Remote {
		t.Errorf("got %v, want a StreamError with CodeClosed", err)
	}
	if got, err := io.ReadAll(from); len(got) > 0 || err != nil {
		t.Errorf("read: got %q, %v, want the end", got, err)
	}
}

// A side that has nothing to write is told that the peer has left; what it sent can be read, and a reset later does no harm.
func TestStoppedWhenThePeerLeaves(t *testing.T) {
	a, b := newSessions(t, new(wire), new(wire))
	from, to := newStreams(t, a, b)
	if _, err := from.Write([]byte("the last words")); err != nil {
		t.Fatal(err)
	}
	_ = from.Close()
	<-to.Stopped()
	if got, err := io.ReadAll(to); string(got) != "the last words" || err != nil {
		t.Errorf("read: got %q, %v, want the last words", got, err)
	}
	_ = to.Reset(9)

	from, to = newStreams(t, a, b)
	_ = from.CloseWrite()
	_ = to.CloseWrite()
	if got, err := io.ReadAll(to); len(got) > 0 || err != nil {
		t.Errorf("read: got %q, %v, want the end", got, err)
	}
	waitFor(t, func() bool { return a.NumStreams() == 0 && b.NumStreams() == 0 })
	if isClosed(from.Done()) || isClosed(to.Done()) {
		t.Error("a stream whose directions have both ended has failed")
	}
}

func TestAcceptRefuseReset(t *testing.T) {
	a, b := newSessions(t, new(wire), new(wire))

	from, _ := newStreams(t, a, b)
	if err := from.WaitAccepted(t.Context()); err != nil {
		t.Errorf("accepted: got %v, want nil", err)
	}

	open := func() (from, to *Stream) {
		from, err := a.Open(t.Context(), []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if to, err = b.Accept(t.Context()); err != nil {
			t.Fatal(err)
		}
		return from, to
	}
	check := func(name string, err error, want StreamError) {
		t.Helper()
		var got *StreamError
		if !errors.As(err, &got) || *got != want {
			t.Errorf("%s: got %v, want %v", name, err, &want)
		}
	}

	from, to := open()
	long := strings.Repeat("no ", 200)
	if err := to.Refuse(7, long); err != nil {
		t.Fatal(err)
	}
	want := StreamError{Code: 7, Reason: long[:maxReason], Remote: true}
	check("wait", from.WaitAccepted(t.Context()), want)
	_, err := from.Read(make([]byte, 1))
	check("read", err, want)
	_, err = from.Write([]byte("x"))
	check("write", err, want)
	_, err = to.Write([]byte("x"))
	check("write of the refuser", err, StreamError{Code: 7, Reason: long[:maxReason]})
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want one that unwraps to net.ErrClosed", err)
	}

	from, to = open()
	_ = to.Close() // undecided
	check("closed", from.WaitAccepted(t.Context()), StreamError{Code: CodeClosed, Remote: true})

	from, to = open()
	if _, err := from.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	_ = from.Reset(9)
	<-to.done
	got, err := io.ReadAll(to)
	check("reset", err, StreamError{Code: 9, Remote: true})
	if string(got) != "unread" {
		t.Errorf("got %q before the reset, want what was written before it", got)
	}
	_, err = to.Write([]byte("x"))
	check("write after the reset", err, StreamError{Code: 9, Remote: true})

	ctx, cancel := context.WithCancel(t.Context())
	from, _ = open()
	cancel()
	if err := from.WaitAccepted(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// A reader that stops makes the peer's Write block, and little is held for it.
func TestSlowReader(t *testing.T) {
	a, b := newSessions(t, new(wire), new(wire))
	from, to := newStreams(t, a, b)
	_ = from.SetWriteDeadline(time.Now().Add(time.Second))
	n, err := from.Write(make([]byte, 16<<20))
	if err == nil || n > welcomeCredit {
		t.Fatalf("got %d bytes and %v, want a timeout within %d bytes", n, err, welcomeCredit)
	}
	waitFor(t, func() bool {
		to.mu.Lock()
		defer to.mu.Unlock()
		return to.in.buf.bytes == n
	})
	// Another stream is not held up.
	from2, to2 := newStreams(t, a, b)
	var wg sync.WaitGroup
	p := data(1<<20, 3)
	sends(t, &wg, from2, p)
	receives(t, &wg, to2, p)
	wg.Wait()
	// Once it reads, all goes on.
	_ = from.SetWriteDeadline(time.Time{})
	wg.Go(func() {
		if _, err := from.Write(make([]byte, 8<<20)); err != nil {
			t.Errorf("write: %v", err)
		}
		_ = from.CloseWrite()
	})
	if m, err := io.Copy(io.Discard, to); m != int64(n+8<<20) || err != nil {
		t.Errorf("got %d bytes and %v, want %d", m, err, n+8<<20)
	}
	wg.Wait()
}

// Credit follows the path while readers keep up, within the session's budget, and comes back.
func TestCreditGrows(t *testing.T) {
	w := func() *wire { return &wire{delay: 10 * time.Millisecond, window: 8 << 20} }
	a, b := newSessions(t, w(), w(), Config{}, Config{Budget: NewBudget(32 << 20)})
	var streams []*Stream
	var wg sync.WaitGroup
	p := data(12<<20, 9)
	for range 4 {
		from, to := newStreams(t, a, b)
		streams = append(streams, to)
		sends(t, &wg, from, p)
		receives(t, &wg, to, p)
	}
	wg.Wait()
	most := 0
	for _, st := range streams {
		st.mu.Lock()
		most = max(most, st.in.window)
		st.mu.Unlock()
		_ = st.Close()
	}
	if most < 1<<20 {
		t.Errorf("credit grew to %d bytes, want 1 MiB or more", most)
	}
	waitFor(t, func() bool { return b.NumStreams() == 0 })
	waitFor(t, func() bool { return b.account.used.Load() == 0 })
}

// A stream that is over on the wire, with much that nobody has read yet, gives its credit back when it is reset.
func TestResetGivesCreditBack(t *testing.T) {
	a, b := newSessions(t, new(wire), new(wire))
	from, to := newStreams(t, a, b)
	const more = 8 << 20
	b.account.force(more)
	to.mu.Lock()
	to.in.window += more
	to.allowLocked()
	to.mu.Unlock()
	if err := to.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	sends(t, &wg, from, data(more, 9))
	wg.Wait()
	waitFor(t, func() bool { to.mu.Lock(); defer to.mu.Unlock(); return to.released })
	if got := b.account.used.Load(); got < more {
		t.Errorf("%d bytes are counted, want the %d that wait for their reader", got, more)
	}
	_ = to.Reset(1)
	waitFor(t, func() bool { return b.account.used.Load() == 0 })
}

// Many streams whose readers stop after a fast start hold what Config says, and all go on.
func TestManySlowReaders(t *testing.T) {
	testtier.Long(t)
	const streams, total = 64, 8 << 20
	a, b := newSessions(t, new(wire), new(wire), Config{}, Config{Budget: NewBudget(total)})
	var from, to []*Stream
	for range streams {
		f, g := newStreams(t, a, b)
		from, to = append(from, f), append(to, g)
	}
	// A fast start.
	var wg sync.WaitGroup
	for i := range streams {
		wg.Go(func() { _, _ = from[i].Write(make([]byte, 1<<20)) })
		wg.Go(func() { _, _ = io.ReadFull(to[i], make([]byte, 1<<20)) })
	}
	wg.Wait()
	written := make([]int, streams)
	for i := range streams {
		wg.Go(func() {
			_ = from[i].SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			written[i], _ = from[i].Write(make([]byte, 64<<20))
		})
	}
	wg.Wait()
	held := 0
	for _, n := range written {
		held += n
	}
	if most := streams*initialCredit + total/2; held > most {
		t.Errorf("%d bytes are held, want at most %d", held, most)
	}
	for i := range streams {
		_ = from[i].CloseWrite()
		wg.Go(func() {
			if n, err := io.Copy(io.Discard, struct{ io.Reader }{to[i]}); int(n) != written[i] || err != nil {
				t.Errorf("got %d bytes and %v, want %d", n, err, written[i])
			}
		})
	}
	wg.Wait()
}
