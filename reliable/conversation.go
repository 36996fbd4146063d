package reliable

import (
	"sync"
	"sync/atomic"
	"time"
)

// A conversation is a sequence of bytes each way over a link, in KCP's format. kcp.KCP does the sending
// (see sender). Receiving is done here (see receiver): kcp's own half needs a heap, a map and four
// allocations for each segment, and acknowledges them one by one when they overtake each other.
//
// It has no goroutine: the link's handler, writers, the governor and a timer that runs while an
// acknowledgement or a report is due call it.
type conversation struct {
	id   uint32
	link Link
	gov  *governor
	mem  *account

	reserved atomic.Int64 // bytes that mem has for what comes, by the owner

	room chan struct{} // capacity 1: write takes more

	// sink takes the data of a segment, whose turn it is; false refuses it, so that it comes again later.
	// It is called with mu held.
	sink func(p []byte) bool

	// overtook is told now and then, with mu held, how many bytes are missing or wait behind what is; nil if nobody
	// wants to know.
	overtook func(n int)

	mu      sync.Mutex // before Stream.mu
	closed  bool
	stopped bool // what is written is dropped
	active  bool // the governor looks after it
	timer   *time.Timer
	// timerAt is when tick runs; zero if it does not.
	timerAt time.Time
	out     sender
	in      receiver
}

func newConversation(l Link, gov *governor, mem *account, id uint32, sink func(p []byte) bool, overtook func(n int)) *conversation {
	return &conversation{id: id, link: l, gov: gov, mem: mem, room: make(chan struct{}, 1), sink: sink, overtook: overtook}
}

// wakeLocked lets tick run at a time, or earlier.
func (c *conversation) wakeLocked(now, at time.Time) {
	if !c.timerAt.IsZero() && !at.Before(c.timerAt) {
		return
	}
	c.timerAt = at
	if d := max(at.Sub(now), 0); c.timer == nil {
		c.timer = time.AfterFunc(d, c.tick)
	} else {
		c.timer.Reset(d)
	}
}

func (c *conversation) mtuLocked() int { return min(max(c.link.MTU(), minMTU), maxPacket) }

// close ends the conversation at once, what the link still has of it included.
func (c *conversation) close() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	if c.timer != nil {
		c.timer.Stop()
	}
	c.dropLocked()
	c.dropSentLocked()
	c.mu.Unlock()
	c.link.Forget(c.id)
}

// stopSending drops what was written and is not with the peer, and what will be written.
func (c *conversation) stopSending() {
	c.mu.Lock()
	if c.closed || c.stopped {
		c.mu.Unlock()
		return
	}
	c.stopped = true
	c.dropSentLocked()
	c.mu.Unlock()
	c.link.Forget(c.id)

	// An acknowledgement may have been among what the link forgot.
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); !c.closed && c.in.next > 0 {
		c.ackLocked(now)
	}
}
