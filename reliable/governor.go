package reliable

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// KCP's timeouts may send so many bytes again at once, and a second, in all of a session. The link repairs what is lost,
// so there is little of it, unless the peer acknowledges nothing.
const (
	resendBurst = 2 << 20
	resendRate  = 2 << 20
)

// governorTick is how often windows are fitted to the link and segments looked for whose time is out.
const governorTick = 20 * time.Millisecond

// A governor looks after the conversations of a session that have something on its way. It sleeps
// while there are none.
type governor struct {
	done <-chan struct{}
	wake chan struct{} // capacity 1: it need not be told twice

	resends *rate.Limiter // in bytes

	mu   sync.Mutex // before conversation.mu
	list []*conversation
}

func newGovernor(done <-chan struct{}) *governor {
	return &governor{done: done, wake: make(chan struct{}, 1), resends: rate.NewLimiter(resendRate, resendBurst)}
}

// add takes c on, which is not on the list, until look says that it is done.
func (g *governor) add(c *conversation) {
	g.mu.Lock()
	g.list = append(g.list, c)
	first := len(g.list) == 1
	g.mu.Unlock()
	if first {
		signal(g.wake)
	}
}

// run returns when the session is done.
func (g *governor) run() {
	tick := time.NewTicker(governorTick)
	tick.Stop()
	defer tick.Stop()
	for {
		select {
		case <-g.done:
			return
		case <-g.wake:
			tick.Reset(governorTick)
		case now := <-tick.C:
			if !g.round(now) {
				tick.Stop()
			}
		}
	}
}

// round looks at each conversation on the list and reports whether any are left.
func (g *governor) round(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	kept := g.list[:0]
	for _, c := range g.list {
		if c.look(now) {
			kept = append(kept, c)
		}
	}
	clear(g.list[len(kept):])
	g.list = kept
	return len(kept) > 0
}
