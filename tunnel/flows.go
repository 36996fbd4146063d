package tunnel

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// DefaultFlowBytes is what a FlowBudget has by default: 4,096 flows.
	DefaultFlowBytes = 128 << 20

	// flowBytes is what one flow counts on the side that opened it: a stream of 16 KiB, two goroutines of 11 KiB
	// together, its place in tables, and firstBytes of datagrams that wait for the peer to accept it. More of these
	// count on their own.
	flowBytes  = 32 << 10
	firstBytes = 2 << 10

	// answerWait is how long a flow that has no answer yet is taken for one that waits for it, how long a conversation
	// has to go on until it is a long one, and how long that is taken to live after its last datagram: keepalives are
	// 25 s apart.
	answerWait = 30 * time.Second

	// evictionEvery is how often a line at most says that flows make room.
	evictionEvery = 10 * time.Second
)

// A FlowBudget bounds the memory of the flows of datagrams that one process opens: those of all listeners that have it
// in their Options. Where it is used up a new flow ends another one, of the session that has the most, as endsBefore
// chooses. So no peer's sources end the flows of another that has fewer.
type FlowBudget struct {
	most  int64
	lines *rate.Limiter // of what is logged

	mu      sync.Mutex // after that of a flow, never with that of a table
	used    int64
	flows   map[*flow]struct{}
	count   map[Session]int // of flows
	evicted int             // since the last line
}

// NewFlowBudget returns a budget of so many bytes; 0 is DefaultFlowBytes. There is always room for one flow.
func NewFlowBudget(bytes int64) *FlowBudget {
	if bytes <= 0 {
		bytes = DefaultFlowBytes
	}
	return &FlowBudget{most: bytes, lines: rate.NewLimiter(rate.Every(evictionEvery), 1), flows: make(map[*flow]struct{}), count: make(map[Session]int)}
}

// enter takes f in, and ends others if there is no room.
func (b *FlowBudget) enter(f *flow, log *slog.Logger) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.used+flowBytes > b.most && len(b.flows) > 0 {
		worst := b.victimLocked(now)
		worst.evicted.Store(true)
		worst.stop()
		b.leaveLocked(worst)
		b.evicted++
	}
	b.count[f.session]++
	b.flows[f] = struct{}{}
	b.used += flowBytes
	if b.evicted > 0 && b.lines.Allow() {
		log.Warn("flows of datagrams end before their time: their memory is used up", "ended", b.evicted, "flows", len(b.flows))
		b.evicted = 0
	}
}

// victimLocked returns the flow that makes room for another one.
func (b *FlowBudget) victimLocked(now time.Time) *flow {
	most := 0
	for _, n := range b.count {
		most = max(most, n)
	}
	var worst *flow
	var state flowState
	for f := range b.flows {
		if b.count[f.session] < most {
			continue
		}
		if s := f.state(now); worst == nil || endsBefore(s, state) {
			worst, state = f, s
		}
	}
	return worst
}

// leave takes f off, if it was not evicted.
func (b *FlowBudget) leave(f *flow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leaveLocked(f)
}

func (b *FlowBudget) leaveLocked(f *flow) {
	if _, ok := b.flows[f]; ok {
		delete(b.flows, f)
		b.used -= f.cost()
		if b.count[f.session]--; b.count[f.session] == 0 {
			delete(b.count, f.session)
		}
	}
}

// hold reports whether n more bytes of datagrams of f's may wait.
func (b *FlowBudget) hold(f *flow, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := f.cost()
	f.held += n
	more := f.cost() - before
	if _, ok := b.flows[f]; !ok || more > 0 && b.used+more > b.most {
		f.held -= n
		return false
	}
	b.used += more
	return true
}

// release says that none of f's datagrams wait any more.
func (b *FlowBudget) release(f *flow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.flows[f]; ok {
		b.used -= f.cost() - flowBytes
		f.held = 0
	}
}

// cost is what f counts. The caller holds budget.mu.
func (f *flow) cost() int64 { return flowBytes + int64(max(f.held-firstBytes, 0)) }

// A flowState is what decides which flow ends when there are too many.
type flowState struct {
	over    bool          // refused or failed: it is remembered and does nothing
	heard   bool          // an answer came
	age     time.Duration // since the first datagram
	idle    time.Duration // since the last datagram
	talking time.Duration // from the first answer to the last datagram
}

// busy reports whether the end of a flow would be missed: it waits for its first answer, or is a conversation that goes
// on for long.
func (s flowState) busy() bool {
	if s.over {
		return false
	}
	if !s.heard {
		return s.age < answerWait
	}
	return s.talking >= answerWait && s.idle < answerWait
}

// endsBefore reports whether a makes room before b does: those that are over, then those that have had their answer or
// get none, then those that are busy; of each kind the one that was silent for longest.
func endsBefore(a, b flowState) bool {
	switch {
	case a.over != b.over:
		return a.over
	case a.busy() != b.busy():
		return b.busy()
	}
	return a.idle > b.idle
}

// flows are the flows of one listener, by their sources, or what else tells them apart.
type flows[K comparable] struct {
	ctx     context.Context // ends them
	session Session
	opts    *Options
	budget  *FlowBudget
	wg      sync.WaitGroup

	mu sync.Mutex
	m  map[K]*flow
}

func newFlows[K comparable](ctx context.Context, s Session, opts *Options) *flows[K] {
	b := opts.Flows
	if b == nil {
		b = NewFlowBudget(0)
	}
	return &flows[K]{ctx: ctx, session: s, opts: opts, budget: b, m: make(map[K]*flow)}
}

// get returns the flow of k, or nil.
func (t *flows[K]) get(k K) *flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.m[k]; f != nil && !f.evicted.Load() {
		return f
	}
	return nil
}

// open begins the flow of k, which has none. Only one goroutine may call it.
func (t *flows[K]) open(k K, h header, e StreamEvent, deliver func(p []byte)) *flow {
	ctx, stop := context.WithCancel(t.ctx)
	f := &flow{
		silence: silence{began: time.Now()}, header: h.encode(), event: e, deliver: deliver, stop: stop,
		session: t.session, budget: t.budget, room: earlyBytes, wake: make(chan struct{}, 1),
	}
	t.budget.enter(f, t.opts.logger())
	t.mu.Lock()
	t.m[k] = f
	t.mu.Unlock()
	t.wg.Go(func() {
		defer stop()
		f.run(ctx, t.opts)
		t.budget.leave(f)
		t.mu.Lock()
		if t.m[k] == f {
			delete(t.m, k)
		}
		t.mu.Unlock()
	})
	return f
}
