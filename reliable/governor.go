package reliable

import (
	"sync"
	"time"
)

const (
	governorTick = 20 * time.Millisecond
	idleAfter    = 2 * time.Second
)

// A governor looks after the conversations of a session that are in use: it fits their windows to the
// link and lets those go idle where nothing happens. It sleeps while there are none.
type governor struct {
	link Link
	done <-chan struct{}
	wake chan struct{} // capacity 1: it need not be told twice

	mu   sync.Mutex
	list []*conversation // active ones
}

func newGovernor(l Link, done <-chan struct{}) *governor {
	return &governor{link: l, done: done, wake: make(chan struct{}, 1)}
}

// touch notes that c is in use. It is cheap when it was lately.
func (g *governor) touch(c *conversation) {
	if !c.touched.Load() {
		c.touched.Store(true)
	}
	if c.active.Load() || !c.active.CompareAndSwap(false, true) {
		return
	}
	g.mu.Lock()
	c.setInterval(activeInterval)
	c.since = time.Now()
	c.lastTouch = c.since
	g.list = append(g.list, c)
	first := len(g.list) == 1
	g.mu.Unlock()
	if first {
		select {
		case g.wake <- struct{}{}:
		default:
		}
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
			if !g.look(now) {
				tick.Stop()
			}
		}
	}
}

// look visits the active conversations and reports whether any are left.
func (g *governor) look(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	kept := g.list[:0]
	for _, c := range g.list {
		if c.touched.Swap(false) {
			c.lastTouch = now
		}
		if isClosed(c.ended) {
			continue
		}
		if now.Sub(c.lastTouch) > idleAfter {
			c.setInterval(idleInterval)
			c.active.Store(false)
			continue
		}
		c.fit(g.link)
		c.pace(g.link)
		if now.Sub(c.since) < idleInterval+governorTick {
			c.kick()
		}
		kept = append(kept, c)
	}
	clear(g.list[len(kept):])
	g.list = kept
	return len(kept) > 0
}
