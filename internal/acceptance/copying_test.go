//go:build unix

package acceptance

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/internal/netlab"
)

var errSpoilt = errors.New("another character came back than was typed")

// A count is how much of something has come in. One goroutine adds, one waits.
type count struct {
	n    atomic.Int64
	more chan struct{} // capacity 1
}

func newCount() count { return count{more: make(chan struct{}, 1)} }

func (c *count) add(n int) {
	c.n.Add(int64(n))
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// reaches waits until the count is want, and says whether it came to that.
func (c *count) reaches(want int64, deadline <-chan time.Time) bool {
	for c.n.Load() < want {
		select {
		case <-c.more:
		case <-deadline:
			return false
		}
	}
	return true
}

// A copying is a transfer that goes on while the network under it changes, and beside it somebody who
// types a character each 100 ms and sees it come back. What the receiver has is counted, so that a gap can
// be measured.
type copying struct {
	t        testing.TB
	received count
	typed    atomic.Int64
	echoed   count
	stop     chan struct{}
	sums     chan [2][32]byte // of what was sent and what came, capacity 1
	typist   chan error       // capacity 1
	more     int64            // bytes: far more than are under way
	endsFor  time.Duration    // how long what was sent may take to come in at the end
}

func newCopying(t testing.TB) *copying {
	return &copying{
		t: t, received: newCount(), echoed: newCount(),
		stop: make(chan struct{}), sums: make(chan [2][32]byte, 1), typist: make(chan error, 1), more: 512 << 10, endsFor: patience,
	}
}

// Bytes that the sender writes at once, and how often: 3 MB/s, so that the machine has time for the rest.
const (
	portion      = 32 << 10
	portionEvery = 10 * time.Millisecond
	typeEvery    = 100 * time.Millisecond
)

// copyThrough sends random bytes through a tunnel between two hosts, from the connecter to the exposer,
// until it is told to stop, and types beside it.
func (w *world) copyThrough(left, right *netlab.Host, flags ...string) (c *copying, exposer, connecter *process) {
	return w.copyAt(left, right, portionEvery, flags...)
}

// copyAt is copyThrough with another time between portions; 0 is as fast as it goes.
func (w *world) copyAt(left, right *netlab.Host, every time.Duration, flags ...string) (c *copying, exposer, connecter *process) {
	w.t.Helper()
	c = newCopying(w.t)
	sum := make(chan [32]byte, 1)
	sink := listen(w.t, left, func(conn net.Conn) {
		h := sha256.New()
		_, _ = io.Copy(io.MultiWriter(h, &counting{&c.received}), conn) // how it ended the sum tells
		sum <- [32]byte(h.Sum(nil))
	})
	echo := listen(w.t, left, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	exposer, code := w.expose(left, append(flags, sink.String(), echo.String())...)
	connecter = w.connect(right, code, append(flags, "-L", "0:"+sink.String(), "-L", "0:"+echo.String())...)
	var ports [2]netip.AddrPort
	for i := range ports {
		e, _ := connecter.await("listening")
		var err error
		if ports[i], err = netip.ParseAddrPort(e.Addr); err != nil {
			w.t.Fatalf("listening event: %v", err)
		}
	}
	go c.send(dial(w.t, right, ports[0]), every, sum)
	go func() { c.typist <- c.typing(dial(w.t, right, ports[1])) }()
	c.flows(patience)
	return c, exposer, connecter
}

type counting struct{ *count }

func (c *counting) Write(b []byte) (int, error) {
	c.add(len(b))
	return len(b), nil
}

// send writes until it is told to stop, and then compares what it wrote with what came.
func (c *copying) send(conn *net.TCPConn, every time.Duration, sum <-chan [32]byte) {
	h := sha256.New()
	b := make([]byte, portion)
	var due <-chan time.Time
	if every > 0 {
		t := time.NewTicker(every)
		defer t.Stop()
		due = t.C
	} else {
		always := make(chan time.Time)
		close(always)
		due = always
	}
	for {
		select {
		case <-c.stop:
			_ = conn.CloseWrite()
			var got [32]byte
			select {
			case got = <-sum:
			case <-time.After(patience):
			}
			c.sums <- [2][32]byte{[32]byte(h.Sum(nil)), got}
			return
		case <-due:
		}
		rand.Read(b)
		n, err := conn.Write(b)
		h.Write(b[:n])
		if err != nil {
			<-c.stop
			c.sums <- [2][32]byte{{1}}
			return
		}
	}
}

// typing writes one character after the other, and checks that each comes back once and in order.
func (c *copying) typing(conn *net.TCPConn) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		t := time.NewTicker(typeEvery)
		defer t.Stop()
		for n := byte(0); ; n++ {
			select {
			case <-c.stop:
				_ = conn.CloseWrite()
				return
			case <-t.C:
			}
			if _, err := conn.Write([]byte{n}); err != nil {
				return // the reader has it too
			}
			c.typed.Add(1)
		}
	})
	b := make([]byte, 256)
	for next := byte(0); ; {
		n, err := conn.Read(b)
		for _, got := range b[:n] {
			if got != next {
				return errSpoilt
			}
			next++
		}
		c.echoed.add(n)
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// flows waits until more has come through, and a character that was typed from now on has come back. It
// returns how long that took, which may be limit at most.
func (c *copying) flows(limit time.Duration) time.Duration {
	c.t.Helper()
	began := time.Now()
	deadline := time.After(limit)
	bytes, typed := c.received.n.Load()+c.more, c.typed.Load()+1 // what was under way may still come in
	if !c.received.reaches(bytes, deadline) {
		c.t.Fatalf("nothing of the copy comes through %v later", limit)
	}
	if !c.echoed.reaches(typed, deadline) {
		c.t.Fatalf("nothing typed comes back %v later", limit)
	}
	return time.Since(began)
}

// rate measures what comes through, in bytes a second.
func (c *copying) rate(d time.Duration) float64 {
	before, began := c.received.n.Load(), time.Now()
	time.Sleep(d)
	return float64(c.received.n.Load()-before) / time.Since(began).Seconds()
}

// ends ends the transfer and compares both sides of it.
func (c *copying) ends() {
	c.t.Helper()
	close(c.stop)
	select {
	case s := <-c.sums:
		if s[0] != s[1] {
			c.t.Errorf("the receiver got something else than was sent")
		}
	case <-time.After(c.endsFor):
		c.t.Errorf("the copy does not end")
	}
	select {
	case err := <-c.typist:
		if err != nil || c.echoed.n.Load() != c.typed.Load() {
			c.t.Errorf("%d of %d characters came back: %v", c.echoed.n.Load(), c.typed.Load(), err)
		}
	case <-time.After(patience):
		c.t.Errorf("the last characters do not come back")
	}
}
