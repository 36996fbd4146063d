package rendezvous

import (
	"container/heap"
	"net/netip"
	"sync"
	"time"

	"adit/internal/fair"
)

const (
	turnWait    = 8 * time.Second // the longest wait for a turn: a client waits ten seconds
	turnHistory = 4096            // networks whose turns are remembered
)

// A turnstile lets so many connections at once compute their TLS handshake, and takes the networks in turn: one that
// opens a thousand connections waits for its own, and the others hardly wait. (Start-time fair queueing: each turn of
// a network is due one step after its last, and the one that is due first is next.)
type turnstile struct {
	mu    sync.Mutex
	free  int
	clock uint64 // the step of the turn given last
	due   map[netip.Prefix]uint64
	queue waiters
}

type waiter struct {
	step  uint64
	at    int // in the queue, -1 once it is out
	ready chan struct{}
}

type waiters []*waiter

func (w waiters) Len() int           { return len(w) }
func (w waiters) Less(i, j int) bool { return w[i].step < w[j].step }
func (w waiters) Swap(i, j int)      { w[i], w[j] = w[j], w[i]; w[i].at, w[j].at = i, j }
func (w *waiters) Push(x any)        { x.(*waiter).at = len(*w); *w = append(*w, x.(*waiter)) }
func (w *waiters) Pop() any {
	old := *w
	x := old[len(old)-1]
	old[len(old)-1], *w = nil, old[:len(old)-1]
	x.at = -1
	return x
}

func newTurnstile(slots int) *turnstile {
	return &turnstile{free: slots, due: make(map[netip.Prefix]uint64)}
}

// enter waits for a turn, which leave ends. It returns false if none came in time.
func (t *turnstile) enter(from netip.Addr) bool {
	network := fair.Network(from)
	t.mu.Lock()
	step := max(t.clock, t.due[network]) + 1
	if len(t.due) >= turnHistory {
		for n, due := range t.due {
			if due <= t.clock {
				delete(t.due, n)
			}
		}
	}
	t.due[network] = step
	if t.free > 0 {
		t.free--
		t.clock = max(t.clock, step)
		t.mu.Unlock()
		return true
	}
	w := &waiter{step: step, ready: make(chan struct{})}
	heap.Push(&t.queue, w)
	t.mu.Unlock()
	timer := time.NewTimer(turnWait)
	defer timer.Stop()
	select {
	case <-w.ready:
		return true
	case <-timer.C:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.at < 0 {
		return true // just now
	}
	heap.Remove(&t.queue, w.at)
	return false
}

// leave ends a turn.
func (t *turnstile) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 {
		t.free++
		return
	}
	w := heap.Pop(&t.queue).(*waiter)
	t.clock = max(t.clock, w.step)
	close(w.ready)
}
