// In package reliable: this file serves the tests that look inside, and bounds its windows as the package
// does.

package reliable

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A wire is how one direction of a simulated link treats packets. The zero value is perfect.
type wire struct {
	delay   time.Duration
	jitter  time.Duration // added at random, so that packets overtake each other
	loss    float64
	double  float64
	rate    int  // bytes a second, 0 for no limit
	queue   int  // bytes that wait for the rate; more are dropped. 0 for no limit
	window  int  // what the sender's Window says; 1 MiB if 0
	broken  bool // lost packets that have a key are not repaired
	down    atomic.Bool
	dropped atomic.Int64
	sent    atomic.Int64 // packets
	bytes   atomic.Int64
}

func (w *wire) clone() *wire {
	return &wire{delay: w.delay, jitter: w.jitter, loss: w.loss, double: w.double, rate: w.rate, queue: w.queue,
		window: w.window, broken: w.broken}
}

// A testLink is one end of a link in memory.
type testLink struct {
	peer    *testLink
	wire    *wire
	handler atomic.Pointer[func([]byte)]
	sched   *schedule
	pipe    *pipe // if there is no schedule
	rtt     time.Duration
}

// newLinks joins two links; w(0) is the direction from the first.
func newLinks(t testing.TB, ab, ba *wire) (a, b *testLink) {
	a, b = &testLink{wire: ab}, &testLink{wire: ba}
	a.peer, b.peer = b, a
	for _, l := range []*testLink{a, b} {
		l.rtt = ab.delay + ba.delay
		if w := l.wire; w.delay > 0 || w.jitter > 0 || w.rate > 0 {
			l.sched = newSchedule(l.peer)
			t.Cleanup(l.sched.stop)
		} else {
			l.pipe = newPipe(l.peer)
			t.Cleanup(l.pipe.stop)
		}
	}
	return a, b
}

func (l *testLink) Receive(f func([]byte)) { l.handler.Store(&f) }
func (l *testLink) MTU() int               { return 1200 }
func (l *testLink) RTT() time.Duration     { return l.rtt }
func (l *testLink) Forget(uint32)          {}
func (l *testLink) Pending(uint32) int     { return maxWindow }
func (l *testLink) Window(uint32) int {
	if l.wire.window > 0 {
		return l.wire.window
	}
	return 1 << 20
}

func (l *testLink) deliver(p []byte) {
	if f := l.handler.Load(); f != nil {
		(*f)(p)
	}
}

func (l *testLink) SendFresh(flow uint32, p []byte) bool { return l.Send(flow, 0, p) }

func (l *testLink) Send(_, key uint32, p []byte) bool {
	w := l.wire
	w.sent.Add(1)
	w.bytes.Add(int64(len(p)))
	if w.down.Load() {
		w.dropped.Add(1)
		return true
	}
	var late time.Duration
	for w.loss > 0 && rand.Float64() < w.loss {
		if key == 0 || w.broken || l.sched == nil {
			w.dropped.Add(1)
			return true
		}
		w.sent.Add(1)
		w.bytes.Add(int64(len(p)))
		late += l.rtt + l.rtt/4 + time.Millisecond
	}
	n := 1
	if w.double > 0 && rand.Float64() < w.double {
		n = 2
	}
	ok := true
	for range n {
		if l.sched == nil {
			l.pipe.put(p)
		} else if !l.sched.put(w, p, late) {
			w.dropped.Add(1)
			ok = false
		}
	}
	return ok
}

// A pipe delivers packets at once and in order, from a goroutine of its own.
type pipe struct {
	to    *testLink
	mu    sync.Mutex
	ready sync.Cond // on mu
	idle  bool
	quit  bool
	b     []byte // packets
	ends  []int  // where they end
	wg    sync.WaitGroup
}

func newPipe(to *testLink) *pipe {
	p := &pipe{to: to}
	p.ready.L = &p.mu
	p.wg.Go(p.run)
	return p
}

func (q *pipe) put(p []byte) {
	q.mu.Lock()
	q.b = append(q.b, p...)
	q.ends = append(q.ends, len(q.b))
	if q.idle {
		q.idle = false
		q.ready.Signal()
	}
	q.mu.Unlock()
}

func (q *pipe) stop() {
	q.mu.Lock()
	q.quit = true
	q.ready.Signal()
	q.mu.Unlock()
	q.wg.Wait()
}

func (q *pipe) run() {
	var b []byte
	var ends []int
	for {
		q.mu.Lock()
		for len(q.ends) == 0 && !q.quit {
			q.idle = true
			q.ready.Wait()
		}
		if q.quit {
			q.mu.Unlock()
			return
		}
		b, q.b = q.b, b[:0]
		ends, q.ends = q.ends, ends[:0]
		q.mu.Unlock()
		start := 0
		for _, end := range ends {
			q.to.deliver(b[start:end])
			start = end
		}
	}
}

// A schedule delivers packets when their time has come.
type schedule struct {
	to   *testLink
	mu   sync.Mutex
	h    flights
	seq  int       // of the last packet, so that those of the same time stay in order
	free time.Time // when the rate lets the next packet go
	wake chan struct{}
	quit chan struct{}
	wg   sync.WaitGroup
}

type flight struct {
	at  time.Time
	seq int
	p   []byte
}

type flights []flight

func (h flights) Len() int { return len(h) }
func (h flights) Less(i, j int) bool {
	return h[i].at.Before(h[j].at) || h[i].at.Equal(h[j].at) && h[i].seq < h[j].seq
}
func (h flights) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *flights) Push(x any)   { *h = append(*h, x.(flight)) }
func (h *flights) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = flight{}
	*h = old[:len(old)-1]
	return x
}

func newSchedule(to *testLink) *schedule {
	s := &schedule{to: to, wake: make(chan struct{}, 1), quit: make(chan struct{})}
	s.wg.Go(s.run)
	return s
}

func (s *schedule) stop() {
	close(s.quit)
	s.wg.Wait()
}

func (s *schedule) put(w *wire, p []byte, late time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := time.Now()
	if w.rate > 0 {
		if s.free.Before(at) {
			s.free = at
		}
		if w.queue > 0 && s.free.Sub(at).Seconds()*float64(w.rate) > float64(w.queue) {
			return false
		}
		s.free = s.free.Add(time.Duration(float64(len(p)) / float64(w.rate) * 1e9))
		at = s.free
	}
	at = at.Add(w.delay + late)
	if w.jitter > 0 {
		at = at.Add(rand.N(w.jitter))
	}
	s.seq++
	heap.Push(&s.h, flight{at, s.seq, append([]byte(nil), p...)})
	signal(s.wake)
	return true
}

func (s *schedule) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var due [][]byte
		s.mu.Lock()
		now := time.Now()
		for len(s.h) > 0 && !s.h[0].at.After(now) {
			due = append(due, heap.Pop(&s.h).(flight).p)
		}
		wait := time.Hour
		if len(s.h) > 0 {
			wait = s.h[0].at.Sub(now)
		}
		s.mu.Unlock()
		for _, p := range due {
			s.to.deliver(p)
		}
		if len(due) > 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.quit:
			return
		}
	}
}

// newSessions joins two sessions by wires like the one given, and closes them when the test ends.
func newSessions(t testing.TB, ab, ba *wire, configs ...Config) (a, b *Session) {
	t.Helper()
	var ca, cb Config
	if len(configs) > 0 {
		ca = configs[0]
	}
	if len(configs) > 1 {
		cb = configs[1]
	}
	ca.Initiator = true
	la, lb := newLinks(t, ab, ba)
	a, b = NewSession(la, ca), NewSession(lb, cb)
	t.Cleanup(func() {
		a.CloseWithError(nil)
		b.CloseWithError(nil)
		a.Close()
		b.Close()
	})
	return a, b
}

// newStreams returns both ends of an accepted stream from a to b.
func newStreams(t testing.TB, a, b *Session) (from, to *Stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	from, err := a.Open(ctx, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if to, err = b.Accept(ctx); err != nil {
		t.Fatal(err)
	}
	if got := string(to.Header()); got != "hello" {
		t.Fatalf("got header %q, want %q", got, "hello")
	}
	if err := to.Accept(); err != nil {
		t.Fatal(err)
	}
	return from, to
}

var _ net.Conn = (*Stream)(nil)
