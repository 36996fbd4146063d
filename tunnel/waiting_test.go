package tunnel

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A lateSession has no peer before it is ready.
type lateSession struct {
	Session
	ready chan struct{}
}

func (s lateSession) Open(ctx context.Context, header []byte) (Stream, error) {
	select {
	case <-s.ready:
		return s.Session.Open(ctx, header)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// What a client sent while its connection waited arrives.
func TestWaiting(t *testing.T) {
	target, conns := service(t, "tcp", "127.0.0.1:0", nil)
	a, b := newSessions(t)
	serving(t, b, offering(target), Options{})
	late := lateSession{a, make(chan struct{})}
	l := listening(t, late, "0", Options{})
	c := dialed(t, l.Addr())
	say(t, c, "question", false)
	for len(l.waiting.all()) == 0 {
		runtime.Gosched()
	}
	close(late.ready)
	x := accepted(t, conns)
	say(t, c, ", the end", true)
	text(t, x, "question, the end")
	say(t, x, "answer", true)
	text(t, c, "answer")
	if n := len(l.waiting.all()); n != 0 {
		t.Errorf("%d connections wait, want none", n)
	}
}

func (w *waiting) all() []*func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stops
}

// A client that leaves while there is no session leaves nothing behind.
func TestWaitingClientLeaves(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("what leaves is not seen here")
	}
	a, _ := newSessions(t)
	sink, seen := events()
	l := listening(t, lateSession{a, make(chan struct{})}, "0:web:80", Options{OnStream: sink})
	c := dialed(t, l.Addr())
	say(t, c, "GET / HTTP/1.0\r\n\r\n", false)
	abort(c)
	if e := next(t, seen); e.State != StateReset || e.Reason != errClientLeft.Error() {
		t.Errorf("event %+v, want reset with %q", e, errClientLeft)
	}
}

func TestSeeEnd(t *testing.T) {
	linux := runtime.GOOS == "linux"
	if runtime.GOOS == "windows" {
		t.Skip("nothing is seen here")
	}
	for _, test := range []struct {
		name    string
		network string
		do      func(t *testing.T, c conn)
		want    end
	}{
		{"end of the input", "tcp", func(t *testing.T, c conn) { _ = c.CloseWrite() }, endInput},
		{"closed", "tcp", func(t *testing.T, c conn) { _ = c.Close() }, endInput},
		{"reset", "tcp", func(t *testing.T, c conn) { abort(c) }, endBoth},
		{"data and reset", "tcp", func(t *testing.T, c conn) { say(t, c, "x", false); abort(c) }, endBoth},
		{"data and end", "tcp", func(t *testing.T, c conn) { say(t, c, "x", true) }, endInput},
		{"socket closed", "unix", func(t *testing.T, c conn) { say(t, c, "x", true); _ = c.Close() }, endBoth},
		{"socket at the end of its input", "unix", func(t *testing.T, c conn) { say(t, c, "x", true) }, endNone},
		{"data", "tcp", func(t *testing.T, c conn) { say(t, c, "x", false) }, endNone},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !linux && (test.network == "unix" || test.name == "data and end") {
				t.Skip("it is not to be told there")
			}
			addr := "127.0.0.1:0"
			if test.network == "unix" {
				addr = filepath.Join(t.TempDir(), "s")
			}
			n, err := net.Listen(test.network, addr)
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			far := dialed(t, n.Addr())
			c, err := n.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			seen := make(chan end, 1)
			go func() { seen <- seeEnd(c) }()
			test.do(t, far)
			if test.want == endNone {
				_ = c.SetReadDeadline(time.Unix(1, 0)) // there is nothing to wait for
			}
			select {
			case got := <-seen:
				if got != test.want {
					t.Errorf("got %d, want %d", got, test.want)
				}
			case <-time.After(patience):
				t.Error("nothing is seen")
			}
		})
	}
}

// Only so many wait, and where nothing can be seen of them none for ever.
func TestWaitingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w waiting
		var wg sync.WaitGroup
		began := time.Now()
		why := make([]error, maxWaiting+10)
		took := make([]time.Duration, len(why))
		for i := range why {
			c, far := net.Pipe()
			defer far.Close()
			defer c.Close()
			wg.Go(func() {
				_, why[i] = w.open(t.Context(), lateSession{nil, nil}, nil, c)
				took[i] = time.Since(began)
			})
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		for i, err := range why {
			want, at := errWaited, openSoon+unwatchedFor+time.Duration(i)*time.Millisecond
			if i < 10 {
				want, at = errCrowded, openSoon+time.Duration(i+maxWaiting)*time.Millisecond
			}
			if !errors.Is(err, want) || took[i] != at {
				t.Fatalf("connection %d: %v after %v, want %v after %v", i, err, took[i], want, at)
			}
		}
		if len(w.stops) != 0 {
			t.Errorf("%d are left", len(w.stops))
		}
	})
}
