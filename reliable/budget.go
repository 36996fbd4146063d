package reliable

import (
	"sync/atomic"
	"time"
)

const (
	// defaultBudget is what a Budget of no stated size holds.
	defaultBudget = 160 << 20

	// streamBytes is what a stream costs beside its buffers: its structs, and the stacks of those that serve it.
	streamBytes = 8 << 10

	// leastStream is what a stream has at least.
	leastStream = streamBytes + initialCredit
)

// A Budget bounds the memory that the streams of a process hold: what waits for readers and the credit given for more,
// what was sent and not acknowledged, segments that wait for others, datagrams. It is shared by any number of sessions.
//
// It is shared by dynamic thresholds (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet
// switches", 1998): a session may hold as much as is left over, and a stream as much as its session could still get.
// So one session alone has half at most, two have a third each, and something is always left for the next. A stream
// has the minimum that makes it move, whatever is left: that is counted too, and may exceed the total.
type Budget struct {
	total   int64
	used    atomic.Int64
	streams atomic.Int64 // each with leastStream

	eased  func()
	peak   atomic.Int64 // of used, since eased was called last
	easing atomic.Bool  // it will be called
}

const (
	// easedBytes is how far use has to fall for eased to be called, easedAfter how long later that is.
	easedBytes = 8 << 20
	easedAfter = 5 * time.Second
)

// OnEase has f called, some seconds later and by a goroutine of its own, whenever the use has fallen by 8 MiB or more:
// it is the time to return memory to the system. It is called before the budget is used.
func (b *Budget) OnEase(f func()) { b.eased = f }

func (b *Budget) add(n int64) {
	used := b.used.Add(n)
	peak := b.peak.Load()
	if used > peak {
		b.peak.Store(used) // another one may be larger; it need not be exact
		return
	}
	if peak-used >= easedBytes && b.eased != nil && b.easing.CompareAndSwap(false, true) {
		time.AfterFunc(easedAfter, func() {
			b.peak.Store(b.used.Load())
			b.easing.Store(false)
			b.eased()
		})
	}
}

// NewBudget returns a budget of so many bytes, 160 MiB if that is not positive.
func NewBudget(bytes int64) *Budget {
	if bytes <= 0 {
		bytes = defaultBudget
	}
	return &Budget{total: bytes}
}

// Used returns the bytes that are held at present, or promised to peers.
func (b *Budget) Used() int64 { return b.used.Load() }

// Total returns the bytes that the budget is made for.
func (b *Budget) Total() int64 { return b.total }

// An account is what one session holds of a budget. Its methods may be called by many goroutines.
type account struct {
	budget  *Budget
	used    atomic.Int64
	streams atomic.Int64
}

// room returns how many bytes more a stream that holds have may get: for n more, what all others leave must be no less
// than what the session has, and what the session could get after that no less than what the stream has.
func room(total, used, session, have int64) int64 {
	return max((total-used-session-have)/3, 0)
}

// take reserves up to n bytes for a stream that holds have, and returns how many.
func (a *account) take(n, have int64) int64 {
	n = min(n, room(a.budget.total, a.budget.used.Load(), a.used.Load(), have))
	if n > 0 {
		a.force(n)
	}
	return n
}

// takeAll reserves n bytes, or reports false.
func (a *account) takeAll(n, have int64) bool {
	got := a.take(n, have)
	if got < n {
		a.give(got)
		return false
	}
	return true
}

// force reserves n bytes that a stream needs to move at all, whatever is left.
func (a *account) force(n int64) {
	a.budget.add(n)
	a.used.Add(n)
}

// give returns n bytes.
func (a *account) give(n int64) {
	a.budget.add(-n)
	a.used.Add(-n)
}

// enter reserves the least of one more stream, which leave gives back, but for the credit.
func (a *account) enter() {
	a.budget.streams.Add(1)
	a.streams.Add(1)
	a.force(leastStream)
}

func (a *account) leave() {
	a.budget.streams.Add(-1)
	a.streams.Add(-1)
	a.give(streamBytes)
}

// admits reports whether the session may have one more stream of the peer's: the least of all streams fits the budget,
// and that of this session's four fifths of it.
func (a *account) admits() bool {
	return (a.budget.streams.Load()+1)*leastStream <= a.budget.total && (a.streams.Load()+1)*leastStream <= a.budget.total/5*4
}

// ample reports whether so little is used that a stream may have a large credit before it has shown what it needs.
func (a *account) ample() bool { return a.budget.used.Load() < a.budget.total/8 }
