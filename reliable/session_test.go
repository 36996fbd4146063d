// In package reliable: this file looks at the governor's list, to know when a session is idle, and at what
// ended it.

package reliable

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/testtier"
)

func TestOpenStorm(t *testing.T) {
	const most = 16
	a, b := newSessions(t, new(wire), new(wire), Config{}, Config{MaxStreams: most})
	var opened []*Stream
	for range 10 * most {
		st, err := a.Open(t.Context(), []byte("storm"))
		if err != nil {
			t.Fatal(err)
		}
		opened = append(opened, st)
	}
	waitFor(t, func() bool { return a.NumStreams() == most && b.NumStreams() == most })
	refused := 0
	for _, st := range opened {
		var reset *StreamError
		if errors.As(st.failure(), &reset) && reset.Code == CodeBusy && reset.Remote {
			refused++
		}
	}
	if refused != 9*most {
		t.Errorf("got %d streams refused with CodeBusy, want %d", refused, 9*most)
	}
	// When they are gone there is room for as many again.
	for range most {
		st, err := b.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Refuse(1, "no"); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, func() bool { return a.NumStreams() == 0 })
	from, to := newStreams(t, a, b)
	_, _ = from.Close(), to.Close()
}

func TestOpenLimits(t *testing.T) {
	a, b := newSessions(t, new(wire), new(wire), Config{MaxStreams: 2})
	if _, err := a.Open(t.Context(), make([]byte, MaxHeader+1)); !errors.Is(err, ErrHeaderTooLong) {
		t.Errorf("got %v, want ErrHeaderTooLong", err)
	}
	long := data(MaxHeader, 1)
	one, err := a.Open(t.Context(), long)
	if err != nil {
		t.Fatal(err)
	}
	in, err := b.Accept(t.Context())
	if err != nil || !bytes.Equal(in.Header(), long) {
		t.Fatalf("got header of %d bytes, %v; want %d", len(in.Header()), err, len(long))
	}
	if _, err := a.Open(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Open(t.Context(), nil); !errors.Is(err, ErrTooManyStreams) {
		t.Errorf("got %v, want ErrTooManyStreams", err)
	}
	_ = one.Reset(1)
	waitFor(t, func() bool {
		st, err := a.Open(t.Context(), nil)
		return err == nil && st != nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Open(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("open: got %v, want context.Canceled", err)
	}
	if _, err := a.Accept(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("accept: got %v, want context.Canceled", err)
	}
}

// Whatever is blocked when a session ends returns an error that unwraps to net.ErrClosed.
func TestSessionEnds(t *testing.T) {
	cause := errors.New("path lost")
	for name, end := range map[string]func(*Session){
		"Close":          func(s *Session) { s.Close() },
		"CloseWithError": func(s *Session) { s.CloseWithError(cause) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newSessions(t, new(wire), new(wire))
			from, _ := newStreams(t, a, b)
			unaccepted, err := a.Open(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			calls := map[string]func() error{
				"accept": func() error { _, err := a.Accept(t.Context()); return err },
				"read":   func() error { _, err := from.Read(make([]byte, 1)); return err },
				"write":  func() error { _, err := from.Write(make([]byte, 1<<20)); return err },
				"wait":   func() error { return unaccepted.WaitAccepted(t.Context()) },
			}
			var wg sync.WaitGroup
			for what, call := range calls {
				wg.Go(func() {
					err := call()
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("%s: got %v, want one that unwraps to net.ErrClosed", what, err)
					}
					if name != "Close" && !errors.Is(err, cause) {
						t.Errorf("%s: got %v, want one that unwraps to %v", what, err, cause)
					}
				})
			}
			if a.Err() != nil {
				t.Errorf("got %v before the end, want nil", a.Err())
			}
			end(a)
			wg.Wait()
			<-a.Done()
			if err := a.Err(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v, want one that unwraps to net.ErrClosed", err)
			}
			if _, err := a.Open(t.Context(), nil); !errors.Is(err, net.ErrClosed) {
				t.Errorf("open: got %v, want one that unwraps to net.ErrClosed", err)
			}
			if n := a.NumStreams(); n != 0 {
				t.Errorf("got %d streams, want 0", n)
			}
		})
	}
}

// What was written to a stream that its owner closed arrives although the session is closed at once,
// and the reader gets to its end although its own session ends too.
func TestCloseDelivers(t *testing.T) {
	w := func() *wire { return &wire{delay: 5 * time.Millisecond, loss: 0.05} }
	a, b := newSessions(t, w(), w())
	from, to := newStreams(t, a, b)
	p := data(100<<10, 4)
	if _, err := from.Write(p); err != nil {
		t.Fatal(err)
	}
	_ = from.Close()
	a.Close()
	b.CloseWithError(errors.New("peer left"))
	if got, err := io.ReadAll(to); !bytes.Equal(got, p) || err != nil {
		t.Errorf("got %d bytes and %v, want %d", len(got), err, len(p))
	}
}

// A refusal is not lost when the session is closed right after it.
func TestCloseDeliversRefusal(t *testing.T) {
	w := func() *wire { return &wire{delay: 5 * time.Millisecond} }
	a, b := newSessions(t, w(), w())
	from, err := a.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	to, err := b.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = to.Refuse(3, "not here")
	b.Close()
	var reset *StreamError
	if err := from.WaitAccepted(t.Context()); !errors.As(err, &reset) || reset.Code != 3 || reset.Reason != "not here" {
		t.Errorf("got %v, want the refusal", err)
	}
}

// Streams outlive an outage: what was lost is sent again when the path is back.
func TestOutage(t *testing.T) {
	ab, ba := &wire{delay: time.Millisecond}, &wire{delay: time.Millisecond}
	a, b := newSessions(t, ab, ba)
	from, to := newStreams(t, a, b)
	ab.down.Store(true)
	ba.down.Store(true)
	p := data(200<<10, 5)
	var wg sync.WaitGroup
	sends(t, &wg, from, p)
	waitFor(t, func() bool { return ab.dropped.Load() > 60 }) // the first flight has 32 packets
	ab.down.Store(false)
	ba.down.Store(false)
	receives(t, &wg, to, p)
	wg.Wait()
}

// A path of 100 Mbit/s and 40 ms that loses 1 % each way.
func TestLossDoesNotStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := func() *wire {
			return &wire{delay: 20 * time.Millisecond, loss: 0.01, rate: 100e6 / 8, queue: 1 << 20}
		}
		ab := w()
		a, b := newSessions(t, ab, w())
		from, to := newStreams(t, a, b)
		p := data(8<<20, 6)
		var wg sync.WaitGroup
		sends(t, &wg, from, p)
		receives(t, &wg, to, p)
		wg.Wait()
		if sent := ab.bytes.Load(); sent > 13<<20 {
			t.Errorf("sent %d bytes for %d: too much was sent twice", sent, len(p))
		}
	})
}

// The steady state allocates next to nothing for a packet.
func TestAllocations(t *testing.T) {
	testtier.Long(t)
	a, b := newSessions(t, new(wire), new(wire))
	from, to := newStreams(t, a, b)
	out, in := make([]byte, 256<<10), make([]byte, 256<<10)
	got := testing.AllocsPerRun(50, func() {
		done := make(chan error)
		go func() {
			_, err := io.ReadFull(to, in)
			done <- err
		}()
		if _, err := from.Write(out); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	// kcp-go has one for each segment, when it gives the buffer back to its pool.
	if limit := 1.5 * float64(len(out)) / 1176; got > limit {
		t.Errorf("got %.0f allocations for %d bytes, want at most %.0f", got, len(out), limit)
	}
}

// An idle session and stream send nothing.
func TestIdleIsSilent(t *testing.T) {
	ab, ba := new(wire), new(wire)
	a, b := newSessions(t, ab, ba)
	from, to := newStreams(t, a, b)
	waitFor(t, func() bool {
		a.gov.mu.Lock()
		defer a.gov.mu.Unlock()
		return len(a.gov.list) == 0
	})
	before := ab.sent.Load() + ba.sent.Load()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := a.Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want context.DeadlineExceeded", err)
	}
	if n := ab.sent.Load() + ba.sent.Load() - before; n > 0 {
		t.Errorf("sent %d packets while idle, want 0", n)
	}
	// It wakes up for data, also when the first packets of it are lost.
	ab.down.Store(true)
	if _, err := from.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return ab.dropped.Load() > 1 })
	ab.down.Store(false)
	if _, err := io.ReadFull(to, make([]byte, 5)); err != nil {
		t.Error(err)
	}
}
