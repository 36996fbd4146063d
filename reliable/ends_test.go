package reliable

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// rough is a wire on which all sorts of packets overtake each other and some are lost.
func rough() *wire {
	return &wire{delay: 5 * time.Millisecond, jitter: 20 * time.Millisecond, loss: 0.1, double: 0.1}
}

// wantReset checks that the peer's reset with the code is the end.
func wantReset(t *testing.T, err error, code uint32) {
	t.Helper()
	var reset *StreamError
	if !errors.As(err, &reset) || !reset.Remote || reset.Code != code {
		t.Errorf("got %v, want the peer's reset with code %d", err, code)
	}
}

// A reset takes effect after the bytes before it, and leaves the other direction alone.
func TestResetWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newSessions(t, rough(), rough())
		for i := range 20 {
			from, to := newStreams(t, a, b)
			p := data(rand.N(300_000), uint64(i))
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := from.Write(p); err != nil {
					t.Errorf("write: %v", err)
				}
				from.ResetWrite(7)
				if _, err := from.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
					t.Errorf("write after ResetWrite: got %v, want net.ErrClosed", err)
				}
			})
			got, err := io.ReadAll(to)
			wantReset(t, err, 7)
			if !bytes.Equal(got, p) {
				t.Errorf("got %d bytes before the reset, want the same %d", len(got), len(p))
			}
			sends(t, &wg, to, p)
			receives(t, &wg, from, p)
			wg.Wait()
		}
		waitFor(t, func() bool { return a.NumStreams() == 0 && b.NumStreams() == 0 })
		waitFor(t, func() bool { return a.account.used.Load() == 0 && b.account.used.Load() == 0 })
	})
}

// A side that reads no more stops the peer's writes and goes on to write.
func TestStopRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newSessions(t, rough(), rough())
		for i := range 20 {
			from, to := newStreams(t, a, b)
			p := data(rand.N(300_000), uint64(i))
			var wg sync.WaitGroup
			wg.Go(func() {
				var err error
				for err == nil {
					_, err = to.Write(make([]byte, 10_000))
				}
				wantReset(t, err, 9)
				<-to.Stopped()
			})
			from.StopRead(9)
			if _, err := from.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("read after StopRead: got %v, want an error", err)
			}
			sends(t, &wg, from, p)
			receives(t, &wg, to, p)
			wg.Wait()
		}
		waitFor(t, func() bool { return a.NumStreams() == 0 && b.NumStreams() == 0 })
	})
}

// What Close could not deliver in time does not end like a proper end.
func TestLingerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ab := new(wire)
		a, b := newSessions(t, ab, new(wire), Config{}, Config{})
		from, to := newStreams(t, a, b)
		ab.down.Store(true)
		if _, err := from.Write(data(10_000, 1)); err != nil {
			t.Fatal(err)
		}
		_ = from.Close()
		time.Sleep(lingerLimit + time.Second)
		ab.down.Store(false)
		_, err := io.ReadAll(to)
		wantReset(t, err, CodeTimeout)
	})
}

// The session's end lets the reader have what is here, and is no proper end.
func TestSessionEndKeepsWhatIsHere(t *testing.T) {
	a, b := newSessions(t, new(wire), new(wire))
	from, to := newStreams(t, a, b)
	if _, err := from.Write([]byte("the last words")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return to.Unread() == 14 })
	cause := errors.New("path lost")
	b.CloseWithError(cause)
	<-to.Done()
	if got, err := io.ReadAll(to); string(got) != "the last words" || !errors.Is(err, cause) {
		t.Errorf("got %q and %v, want the last words and %v", got, err, cause)
	}
}

// A blocked is a writer that takes some and then blocks until it is closed.
type blocked struct {
	takes  int
	closed chan struct{}
}

func (w *blocked) Write(p []byte) (int, error) {
	n := min(w.takes, len(p))
	if w.takes -= n; n < len(p) {
		<-w.closed
		return n, io.ErrClosedPipe
	}
	return n, nil
}

// CopyTo hands over what comes, says which side failed, and counts what the writer did not take as unread.
func TestCopyTo(t *testing.T) {
	a, b := newSessions(t, rough(), rough())
	from, to := newStreams(t, a, b)
	p := data(3<<20, 5)
	var wg sync.WaitGroup
	sends(t, &wg, from, p)
	var got bytes.Buffer
	if n, readErr, writeErr := to.CopyTo(&got); n != int64(len(p)) || readErr != nil || writeErr != nil || !bytes.Equal(got.Bytes(), p) {
		t.Errorf("got %d bytes, %v, %v; want %d", n, readErr, writeErr, len(p))
	}
	wg.Wait()

	from, to = newStreams(t, a, b)
	_, _ = from.Write(p[:10_000])
	from.ResetWrite(3)
	waitFor(t, func() bool { return to.Unread() == 10_000 })
	w := &blocked{takes: 4000, closed: make(chan struct{})}
	done := make(chan error)
	go func() {
		n, readErr, writeErr := to.CopyTo(w)
		if n != 4000 || readErr != nil {
			t.Errorf("got %d bytes and %v, want 4000 and an error of the writer", n, readErr)
		}
		done <- writeErr
	}()
	close(w.closed)
	if err := <-done; err != io.ErrClosedPipe {
		t.Errorf("got %v, want the writer's error", err)
	}
	if n := to.Unread(); n != 6000 {
		t.Errorf("%d bytes are unread, want 6000", n)
	}

	from, to = newStreams(t, a, b)
	_, _ = from.Write(p[:10_000])
	waitFor(t, func() bool { return to.Unread() == 10_000 })
	w = &blocked{closed: make(chan struct{})}
	go func() {
		_, _, err := to.CopyTo(w)
		done <- err
	}()
	waitFor(t, func() bool { to.mu.Lock(); defer to.mu.Unlock(); return to.in.buf.lent })
	_ = to.Reset(1) // drops what the writer holds
	close(w.closed)
	<-done
}

// AwaitWrite blocks as Write would, and holds nothing.
func TestAwaitWrite(t *testing.T) {
	a, b := newSessions(t, new(wire), new(wire))
	from, to := newStreams(t, a, b)
	sent := 0
	for _ = from.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); ; {
		n, err := from.AwaitWrite()
		if err != nil {
			break
		}
		n, _ = from.Write(make([]byte, n))
		sent += n
	}
	if sent < initialCredit || sent > welcomeCredit {
		t.Errorf("got room for %d bytes that nobody reads, want %d to %d", sent, initialCredit, welcomeCredit)
	}
	_ = from.SetWriteDeadline(time.Time{})
	done := make(chan error, 1)
	go func() {
		_, err := from.AwaitWrite()
		done <- err
	}()
	to.StopRead(4)
	wantReset(t, <-done, 4)
}

// Messages that a later version may have are skipped, and a flood of them ends the session with the reason.
func TestUnknownMessages(t *testing.T) {
	a, b := newSessions(t, new(wire), new(wire))
	say := func(body ...byte) {
		a.control.conv.write(append(binary.BigEndian.AppendUint16(nil, uint16(len(body))), body...))
	}
	say(0x63, 0, 0, 0, 1)
	say(append([]byte{0x63, 0, 0, 0, 1}, make([]byte, 500)...)...)
	from, to := newStreams(t, a, b)
	if _, err := from.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	go func() {
		flood := bytes.Repeat([]byte{0, 5, 0x63, 0, 0, 0, 1}, 1000)
		for !isClosed(b.Done()) && !isClosed(a.Done()) {
			if n := a.control.conv.write(flood) / 7 * 7; n == 0 {
				select {
				case <-a.control.conv.room:
				case <-b.Done():
				}
			}
		}
	}()
	<-b.Done()
	if err := b.Err(); !errors.Is(err, ErrProtocol) {
		t.Errorf("got %v, want one that wraps ErrProtocol", err)
	}
	a.CloseWithError(nil)
}

// A sender that was idle goes on where it was, though another conversation had its engine meanwhile.
func TestEnginesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newSessions(t, rough(), rough())
		type pair struct{ from, to *Stream }
		var pairs []pair
		for range 5 {
			from, to := newStreams(t, a, b)
			pairs = append(pairs, pair{from, to})
		}
		for round := range 30 {
			var wg sync.WaitGroup
			for i, p := range pairs {
				if rand.N(2) == 0 {
					continue
				}
				want := data(1+rand.N(30_000), uint64(100*round+i))
				wg.Go(func() {
					if _, err := p.from.Write(want); err != nil {
						t.Errorf("write: %v", err)
					}
				})
				wg.Go(func() {
					got := make([]byte, len(want))
					if _, err := io.ReadFull(p.to, got); err != nil || !bytes.Equal(got, want) {
						t.Errorf("round %d, stream %d: %v, or other bytes", round, i, err)
					}
				})
			}
			wg.Wait()
			time.Sleep(time.Duration(rand.N(3)) * time.Second)
		}
		waitFor(t, func() bool {
			for _, p := range pairs {
				p.from.conv.mu.Lock()
				idle := p.from.conv.out.engine == nil && p.from.conv.out.charged == 0
				p.from.conv.mu.Unlock()
				if !idle {
					return false
				}
			}
			return true
		})
	})
}

func TestRoom(t *testing.T) {
	for name, c := range map[string]struct{ total, used, session, have, want int64 }{
		"alone":                              {300, 0, 0, 0, 100},
		"alone, it has its share":            {300, 100, 100, 100, 0},
		"a second stream":                    {300, 100, 100, 0, 33},
		"a session has half at most":         {300, 150, 150, 0, 0},
		"another session":                    {300, 150, 0, 0, 50},
		"nothing is left":                    {300, 300, 10, 10, 0},
		"more is used than there is":         {300, 400, 10, 10, 0},
		"a small stream beside one that has": {300, 120, 120, 20, 13},
	} {
		if got := room(c.total, c.used, c.session, c.have); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}

// A peer that gives endless credit and acknowledges nothing does not make this side hold more than the budget has.
func TestUnacknowledgedIsBounded(t *testing.T) {
	const total = 8 << 20
	l := &recorder{rtt: time.Millisecond, window: 64 << 20}
	budget := NewBudget(total)
	s := NewSession(l, Config{Initiator: true, Budget: budget})
	const streams = 100
	var wg sync.WaitGroup
	for range streams {
		st, err := s.Open(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		st.handle(message{kind: msgCredit, value: 1 << 60})
		_ = st.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		wg.Go(func() { _, _ = st.Write(make([]byte, 64<<20)) })
	}
	wg.Wait()
	held := budget.Used() - streams*leastStream
	if most := int64(total/2 + (streams+8)*leastSegments*maxPacket); held > most {
		t.Errorf("%d bytes are held, want %d at most", held, most)
	}
	s.CloseWithError(nil)
	if n := budget.Used(); n != 0 {
		t.Errorf("%d bytes are held after the session's end", n)
	}
	s.Close()
}

// A session that takes all it can get leaves streams of another one enough to be fast.
func TestBudgetIsShared(t *testing.T) {
	budget := NewBudget(32 << 20)
	a1, b1 := newSessions(t, new(wire), new(wire), Config{}, Config{Budget: budget})
	for range 200 { // nobody reads
		from, to := newStreams(t, a1, b1)
		_, _ = io.ReadFull(to, nil)
		_ = from.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		_, _ = from.Write(make([]byte, 1<<20))
	}
	w := func() *wire { return &wire{delay: 10 * time.Millisecond, window: 8 << 20} }
	a2, b2 := newSessions(t, w(), w(), Config{}, Config{Budget: budget})
	from, to := newStreams(t, a2, b2)
	var wg sync.WaitGroup
	p := data(16<<20, 2)
	sends(t, &wg, from, p)
	receives(t, &wg, to, p)
	wg.Wait()
	to.mu.Lock()
	defer to.mu.Unlock()
	if to.in.window < 1<<20 {
		t.Errorf("the credit of a reader beside them grew to %d bytes, want 1 MiB or more", to.in.window)
	}
}

// The owner is told once that much was given back.
func TestBudgetEases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(0)
		var eased atomic.Int64
		b.OnEase(func() { eased.Add(1) })
		a := account{budget: b}
		for range 3 {
			a.force(20 << 20)
			a.give(15 << 20)
			a.give(5 << 20)
		}
		time.Sleep(time.Minute)
		a.force(1 << 20)
		a.give(1 << 20)
		time.Sleep(time.Minute)
		if n := eased.Load(); n != 1 {
			t.Errorf("told %d times, want once", n)
		}
	})
}

// An engine that has not grown is small: there is one for each stream that has something on its way.
func TestSlim(t *testing.T) {
	const n = 200
	held := make([]*engine, 0, n)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range n {
		held = append(held, engines.New().(*engine))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := int(after.HeapAlloc-before.HeapAlloc) / n; each > 10<<10 {
		t.Errorf("an engine takes %d bytes, want 10 KiB at most", each)
	}
	runtime.KeepAlive(held)
}
