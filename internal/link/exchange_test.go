// In package link: this file looks at the phase of the congestion control and at its bursts.

package link

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"adit/internal/testtier"
)

// Exchanges are many short connections at once, each of which asks 64 bytes and is answered 64, with the
// packets that package reliable makes of that: the stream's header and the question, ACCEPT and the
// answer, then FIN, FINACK and acknowledgements.
type exchanges struct {
	a, b  *Link
	mu    sync.Mutex
	keys  [2]uint32 // of flow 0
	began map[uint32]time.Time
	next  uint32
	took  []time.Duration
	lock  bool // the next begin together when all are over
	n     int
	over  bool
}

const (
	msgHeader = iota + 1
	msgQuestion
	msgAnswer
	msgOther
	msgFin
)

func newExchanges(p *pair) *exchanges {
	x := &exchanges{a: p.a, b: p.b, began: make(map[uint32]time.Time)}
	p.a.Receive(x.client)
	p.b.Receive(x.server)
	return x
}

func (x *exchanges) send(l *Link, flow, key uint32, kind byte, size int) {
	var p [128]byte
	p[0] = kind
	binary.BigEndian.PutUint32(p[1:], flow)
	l.Send(flow, key, p[:size])
}

// control sends a message on flow 0.
func (x *exchanges) control(side int, conn uint32, kind byte, size int) {
	x.keys[side]++
	var p [128]byte
	p[0] = kind
	binary.BigEndian.PutUint32(p[1:], conn)
	[]*Link{x.a, x.b}[side].Send(0, x.keys[side], p[:size])
}

func (x *exchanges) open() {
	x.next++
	x.began[x.next] = time.Now()
	x.send(x.a, x.next, 1, msgHeader, 24+30)
	x.send(x.a, x.next, 2, msgQuestion, 24+64)
}

func (x *exchanges) server(p []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch conn := binary.BigEndian.Uint32(p[1:]); p[0] {
	case msgHeader:
		x.control(1, conn, msgOther, 24+7)
	case msgQuestion:
		x.send(x.b, conn, 1, msgAnswer, 24+64)
	case msgFin:
		x.control(1, conn, msgOther, 24+22)
		x.send(x.b, 0, 0, msgOther, 24)
	}
}

func (x *exchanges) client(p []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if conn := binary.BigEndian.Uint32(p[1:]); p[0] == msgAnswer && !x.began[conn].IsZero() {
		x.took = append(x.took, time.Since(x.began[conn]))
		delete(x.began, conn)
		x.control(0, conn, msgFin, 24+15)
		x.send(x.a, conn, 0, msgOther, 24)
		switch {
		case x.over:
		case !x.lock:
			x.open()
		case len(x.began) == 0:
			for range x.n {
				x.open()
			}
		}
	}
}

// run keeps n exchanges going for a time and returns how long they took, sorted.
func (x *exchanges) run(n int, d time.Duration) []time.Duration {
	x.mu.Lock()
	x.over, x.n = false, n
	for len(x.began) < n {
		x.open()
	}
	x.took = nil
	x.mu.Unlock()
	time.Sleep(d)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.over = true
	slices.Sort(x.took)
	return x.took
}

// Where the path is not full, an exchange takes a round trip and no more: pacing has no part in it.
func TestExchanges(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		mbit     float64
		rtt      time.Duration
		queue    float64 // BDP
		loss     float64
		n        int
		lock     bool
		stall    time.Duration
		slow     time.Duration // p50, beyond the round trip, at most
		slowest  time.Duration // p95
		most     float64       // of the packets dropped
		queueing time.Duration // p50
	}{
		{100, 40 * time.Millisecond, 1, 0, 100, false, 0, 4 * time.Millisecond, 8 * time.Millisecond, 0, time.Millisecond},
		{100, 40 * time.Millisecond, 1, 0.01, 100, false, 0, 5 * time.Millisecond, 40 * time.Millisecond, 0.012, time.Millisecond},
		{1000, 4 * time.Millisecond, 1, 0, 100, false, 0, 2 * time.Millisecond, 4 * time.Millisecond, 0, time.Millisecond},
		{50, 200 * time.Millisecond, 1, 0.02, 100, false, 0, 8 * time.Millisecond, 300 * time.Millisecond, 0.03, time.Millisecond},
		{20, 40 * time.Millisecond, 2, 0, 20, false, 0, 4 * time.Millisecond, 8 * time.Millisecond, 0, 2 * time.Millisecond},
		{100, 40 * time.Millisecond, 1, 0, 100, true, 0, 3 * time.Millisecond, 5 * time.Millisecond, 0, 2 * time.Millisecond},
		{100, 40 * time.Millisecond, 1, 0.01, 100, true, 0, 3 * time.Millisecond, 40 * time.Millisecond, 0.012, 2 * time.Millisecond},
		{100, 40 * time.Millisecond, 1, 0, 100, false, 10 * time.Millisecond, 5 * time.Millisecond, 12 * time.Millisecond, 0, 2 * time.Millisecond},
		{100, 40 * time.Millisecond, 1, 0.01, 100, false, 10 * time.Millisecond, 5 * time.Millisecond, 40 * time.Millisecond, 0.012, 2 * time.Millisecond},
		{100, 40 * time.Millisecond, 1, 0, 100, true, 10 * time.Millisecond, 5 * time.Millisecond, 12 * time.Millisecond, 0, 2 * time.Millisecond},
		{20, 40 * time.Millisecond, 2, 0, 20, true, 0, 5 * time.Millisecond, 8 * time.Millisecond, 0, 2 * time.Millisecond},
		{1, 40 * time.Millisecond, 1, 0, 100, false, 0, 1000 * time.Millisecond, 2000 * time.Millisecond, 0.08, 40 * time.Millisecond},
		{1, 40 * time.Millisecond, 1, 0, 10, false, 0, 40 * time.Millisecond, 400 * time.Millisecond, 0.05, 40 * time.Millisecond},
	} {
		t.Run(fmt.Sprintf("%d of %v Mbit per s, %v, %v loss, %v, %v", test.n, test.mbit, test.rtt, test.loss, test.lock, test.stall), func(t *testing.T) {
			if test.mbit > 20 && test.stall == 0 {
				testtier.Long(t)
			}
			trials(t, func(t *trial) {
				rate := test.mbit * 1e6 / 8
				s := shape{rate: rate, queue: int(rate * test.rtt.Seconds() * test.queue), delay: test.rtt / 2, loss: test.loss, stall: test.stall}
				p := newPair(t.T, s, s, nil)
				defer p.close()
				x := newExchanges(p)
				x.lock = test.lock
				p.up(t.T)
				p.ab.queueing()
				var took []time.Duration
				d := 50 * test.rtt
				for i := range 3 {
					took = x.run(test.n, d)
					n := len(took)
					t.Logf("%d: %d a second, p50 %v, p95 %v, p99 %v, rates %.1f and %.1f Mbit/s", i, int(float64(n)/d.Seconds()), took[n/2], took[n*95/100], took[n*99/100], p.a.Stats().Rate*8/1e6, p.b.Stats().Rate*8/1e6)
				}
				sent, dropped := p.ab.counts()
				p50, p99 := p.ab.queueing()
				t.Logf("%d of %d dropped, queue %v %v, %+v", dropped, sent, p50, p99, p.a.Stats())
				n := len(took)
				if slow := took[n/2] - test.rtt; slow > test.slow {
					t.Errorf("an exchange takes %v more than the round trip, want %v", slow, test.slow)
				}
				if slow := took[n*95/100] - test.rtt; slow > test.slowest {
					t.Errorf("p95 is %v more than the round trip, want %v", slow, test.slowest)
				}
				if x := float64(dropped) / float64(sent); x > test.most {
					t.Errorf("%.2f %% dropped, want %.2f at most", 100*x, 100*test.most)
				}
				if p50 > test.queueing {
					t.Errorf("packets wait %v in the queue", p50)
				}
			})
		})
	}
}
