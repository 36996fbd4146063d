package reliable

import (
	"time"

	kcp "github.com/xtaci/kcp-go/v5"
)

const (
	// ackEvery is after how many segments an acknowledgement is due: half of the smallest window.
	ackEvery = minWindow / 2

	// One goes out an eighth of a round trip after the last at the earliest, which is enough for any
	// window, and for a segment that nothing follows no sooner than minAckDelay: it may travel with
	// an answer.
	ackShare    = 8
	minAckDelay = time.Millisecond
	maxAckDelay = 10 * time.Millisecond

	// A segment that waits for others is reported to the sender after holdRounds of half a round trip, or
	// holdRound, lest it comes again when its time is out. The link repairs most holes before.
	holdRounds = 4
	holdRound  = 40 * time.Millisecond

	// reportPackets bounds the packets of the reports in a round.
	reportPackets = 4

	// overtookEvery is after how many such segments the stream hears of them.
	overtookEvery = 16

	// keepHeld is the largest ring for such segments that is kept when they are gone.
	keepHeld = 1024
)

// A receiver is the receiving half of a conversation. It puts segments in order and acknowledges them.
// Guarded by conversation.mu.
type receiver struct {
	next     uint32          // the segment that must come next
	held     []*packetBuffer // by number, a ring; nil while there is no hole
	holding  int
	charged  int       // how many of them the account has a buffer for
	round    uint32    // counts while something is held
	roundAt  time.Time // when the next begins; zero if nothing is held
	fresh    int       // segments to be acknowledged
	again    bool      // one came again, so an acknowledgement may be lost
	waiting  bool      // the timer will acknowledge
	ackAt    time.Time // of the last acknowledgement
	lastTS   uint32    // of the segment that came last
	freshest uint32    // its number
	ack      [kcp.IKCP_OVERHEAD]byte
}

// deliver takes in a packet that conversationOf found well formed. It reports whether data came in
// order, which the sink has then.
func (c *conversation) deliver(p []byte) (came bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	for len(p) > 0 {
		h := header(p)
		n := kcp.IKCP_OVERHEAD + h.size()
		switch h.cmd() {
		case kcp.IKCP_CMD_PUSH:
			c.acknowledgedLocked(h, false)
			came = c.pushLocked(h, p[kcp.IKCP_OVERHEAD:n]) || came
		case kcp.IKCP_CMD_ACK:
			c.acknowledgedLocked(h, true)
		}
		p = p[n:]
	}
	r := &c.in
	if r.fresh < ackEvery && (r.waiting || r.fresh == 0 && r.holding == 0 && !r.again) {
		return came
	}
	now := time.Now()
	gap := min(c.link.RTT()/ackShare, maxAckDelay)
	switch {
	case r.fresh >= ackEvery && now.Sub(r.ackAt) >= gap:
		c.ackLocked(now)
	case !r.waiting:
		r.waiting = true
		c.wakeLocked(now, now.Add(max(gap, minAckDelay)))
	}
	return came
}

// pushLocked takes in a segment of data and reports whether it was the next.
func (c *conversation) pushLocked(h header, data []byte) bool {
	r := &c.in
	sn := h.sn()
	switch ahead := int32(sn - r.next); {
	case ahead < 0:
		r.again = true
		return false
	case ahead >= receiveWindow:
		return false
	case ahead > 0:
		c.holdLocked(sn, h.ts(), data)
		return false
	}
	if !c.sink(data) {
		return false // it comes again
	}
	if r.holding > 0 {
		if slot := &r.held[sn%uint32(len(r.held))]; *slot != nil { // it was refused, and came again
			c.releaseLocked(*slot)
			*slot = nil
		}
	}
	r.lastTS, r.freshest = h.ts(), sn
	r.next++
	r.fresh++
	c.drainLocked()
	return true
}

// drainLocked hands on what is held and whose turn it is. What the sink refuses stays: the sender may know already
// that it is here.
func (c *conversation) drainLocked() {
	r := &c.in
	for r.holding > 0 {
		slot := &r.held[r.next%uint32(len(r.held))]
		b := *slot
		if b == nil || !c.sink(b.b[:b.n]) {
			return
		}
		*slot = nil
		c.releaseLocked(b)
		r.next++
		r.fresh++
	}
	if len(r.held) > keepHeld {
		r.held = nil
	}
}

// holdLocked keeps a copy of a segment that overtook others.
func (c *conversation) holdLocked(sn, ts uint32, data []byte) {
	r := &c.in
	ahead := int(sn - r.next)
	if ahead >= len(r.held) {
		size := max(64, len(r.held))
		for size <= ahead {
			size *= 2
		}
		held := make([]*packetBuffer, size)
		for i := range r.held {
			if n := r.next + uint32(i); r.held[n%uint32(len(r.held))] != nil {
				held[n%uint32(size)] = r.held[n%uint32(len(r.held))]
			}
		}
		r.held = held
	}
	slot := &r.held[sn%uint32(len(r.held))]
	if b := *slot; b != nil {
		r.again = r.again || b.reported // so the report was lost
		b.reported = false
		return
	}
	// What the stream's credit lets come has its memory already, if the segments are no tiny ones.
	if int64(r.holding)*maxPacket >= 2*c.reserved.Load() {
		if !c.mem.takeAll(maxPacket, int64(r.charged)*maxPacket) {
			return // it comes again
		}
		r.charged++
	}
	b := packetBuffers.Get().(*packetBuffer)
	b.n, b.ts, b.round, b.reported = copy(b.b[:], data), ts, r.round, false
	*slot = b
	if r.holding++; r.holding%overtookEvery == 0 && c.overtook != nil {
		c.overtook((ahead + 1) * len(data))
	}
}

func (c *conversation) releaseLocked(b *packetBuffer) {
	c.in.holding--
	if c.in.charged > 0 {
		c.in.charged--
		c.mem.give(maxPacket)
	}
	packetBuffers.Put(b)
}

// acked notes that the peer is told of all that came in order.
func (r *receiver) acked(now time.Time) {
	r.fresh, r.again, r.ackAt = 0, false, now
}

func (c *conversation) ackLocked(now time.Time) {
	r := &c.in
	r.acked(now)
	c.link.Send(c.id, 0, appendHeader(r.ack[:0], c.id, kcp.IKCP_CMD_ACK, r.lastTS, r.freshest, r.next))
}

// tick is run by the timer.
func (c *conversation) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timerAt, c.in.waiting = time.Time{}, false
	if c.closed {
		return
	}
	now := time.Now()
	if c.out.later && c.out.kcp != nil {
		c.flushLocked(now)
	}
	r := &c.in
	c.drainLocked()
	if r.fresh > 0 || r.again {
		if at := r.ackAt.Add(min(c.link.RTT()/ackShare, maxAckDelay)); now.Before(at) {
			r.waiting = true // one went out since the timer was set
			c.wakeLocked(now, at)
		} else {
			c.ackLocked(now)
		}
	}
	if r.holding == 0 {
		r.roundAt = time.Time{}
		return
	}
	if !now.Before(r.roundAt) {
		if !r.roundAt.IsZero() {
			r.round++
			c.ackLocked(now) // the last may be lost, and nothing comes in order now that asks for another
			c.reportLocked()
		}
		r.roundAt = now.Add(max(holdRound, c.link.RTT()/2))
	}
	c.wakeLocked(now, r.roundAt)
}

// reportLocked acknowledges the segments that have waited for long, each once unless it comes again. Those
// that follow each other share an acknowledgement: thousands wait on a fast path, and where little goes
// this way the link has no room for one for each beside those that move the sender's window.
func (c *conversation) reportLocked() {
	r := &c.in
	limit := c.mtuLocked() / kcp.IKCP_OVERHEAD * kcp.IKCP_OVERHEAD
	var b []byte
	packets := 0
	for i, n := uint32(0), uint32(len(r.held)); i < n; i++ {
		first, news := i, false
		for ; i < n; i++ {
			p := r.held[(r.next+i)%n]
			if p == nil || r.round-p.round < holdRounds {
				break
			}
			news = news || !p.reported
		}
		if !news {
			continue
		}
		if len(b) == limit {
			c.link.Send(c.id, 0, b)
			b = b[:0]
			if packets++; packets == reportPackets {
				return
			}
		}
		for j := first; j < i; j++ {
			r.held[(r.next+j)%n].reported = true
		}
		b = appendHeader(b, c.id, kcp.IKCP_CMD_ACK, 0, r.next+first, r.next)
		header(b[len(b)-kcp.IKCP_OVERHEAD:]).setMore(int(i - first - 1))
	}
	if len(b) > 0 {
		c.link.Send(c.id, 0, b)
	}
}

// dropLocked gives back what is held.
func (c *conversation) dropLocked() {
	for _, b := range c.in.held {
		if b != nil {
			c.releaseLocked(b)
		}
	}
	c.in.held = nil
}
