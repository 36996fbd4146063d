package reliable

import (
	"bytes"
	"encoding/binary"
	"slices"
	"time"

	kcp "github.com/xtaci/kcp-go/v5"
)

const (
	// Segments in flight. KCP goes through all of them whenever it sends.
	minWindow = 32
	maxWindow = receiveWindow - 1 // 75 MiB in packets of 1,200 bytes

	// receiveWindow is how far ahead of the next segment one may be.
	receiveWindow = 1 << 16

	// KCP's timeout is the safety net under the link's repairs, for what the peer had no room for: the
	// link's round trip and this or eight more, whichever is the most. A segment may wait for a queue and
	// for several repairs of one before it; all that came meanwhile would be sent again for nothing.
	minTimeout    = 500 * time.Millisecond
	timeoutRounds = 8

	// askAfter, or two round trips if that is more, is how long the peer may owe its word on what the link says that
	// it has. Acknowledgements are sent once. Those that an outage swallowed were waited for until kcp's
	// timeout, which has grown with the outage: after a minute it is ten seconds or more.
	askAfter = 300 * time.Millisecond

	// maxRefused bounds the packets that wait for room in the link's queue. More are left to the timeout.
	maxRefused = 4096

	// applyShare of the window must be acknowledged before it is worth a look through all of it.
	applyShare = 16

	// From so many segments in flight on writers do not cause a flush each, but one in flushGap for each
	// segment in flight: about a twentieth of the time that flushes take.
	manySegments = 2048
	flushGap     = 64 * time.Nanosecond

	// writeChunk is how many bytes are handed to kcp at a time.
	writeChunk = 64 << 10

	// A segment takes a buffer of maxPacket of kcp-go's, whatever is in it. So many a stream may have on its way when
	// the budget is used up, and the control conversation so many.
	leastSegments        = 2
	leastControlSegments = 64
)

// A sender is the sending half of a conversation: kcp cuts what is written into segments, keeps to the
// window and sends again what was not acknowledged in time. Guarded by conversation.mu.
type sender struct {
	engine *engine
	kcp    *kcp.KCP // the engine's; nil while nothing is on its way
	shift  uint32   // what kcp's sequence numbers lack to those of the conversation
	mtu    int      // bytes
	base   int      // segments that the link wants on their way
	window int      // segments, with those that wait at the peer for others
	rto    time.Duration

	una, next uint32    // the oldest segment that kcp waits for; behind the newest
	known     uint32    // from una on: the peer has all before it
	reported  bitmap    // segments from una on that the peer has although some before them are missing
	due       time.Time // when kcp looks for segments to send again
	flushed   time.Time
	later     bool  // a flush waits for the timer
	charged   int64 // bytes of the account for what kcp holds
	starved   bool  // a writer waits for the account
	stamped   bool  // the present flush sent something, just now by lastTS
	lastTS    uint32
	told      time.Duration           // the round trip that kcp knows; 0: none
	owing     uint32                  // known when the peer began to owe its word
	owedAt    time.Time               // since when it does; zero: it does not
	refused   []refusal               // what the link had no room for, in order
	input     [kcp.IKCP_OVERHEAD]byte // what kcp is told, reused
	ask       [kcp.IKCP_OVERHEAD + 1]byte
}

// A refusal is a packet that the link will be offered again.
type refusal struct {
	key uint32
	p   []byte
}

// writable returns how many of n bytes write would take, about.
func (c *conversation) writable(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.out
	if c.closed || c.stopped {
		return n
	}
	mss := c.mtuLocked() - kcp.IKCP_OVERHEAD
	if s.kcp == nil {
		n = min(n, max(c.link.Window(c.id), minWindow*mss))
	} else {
		n = min(n, (s.window+s.window/8+16-s.kcp.WaitSnd())*mss)
	}
	affords := c.affordsLocked()
	s.starved = affords == 0
	return max(min(n, affords*mss), 0)
}

// affordsLocked returns for how many segments more there is memory.
func (c *conversation) affordsLocked() int {
	left := room(c.mem.budget.total, c.mem.budget.used.Load(), c.mem.used.Load(), c.out.charged)
	return int(max(left, c.leastBytes()-c.out.charged, 0) / maxPacket)
}

// leastBytes is what the conversation may have of the account, whatever is left of that.
func (c *conversation) leastBytes() int64 {
	if c.id == 0 {
		return leastControlSegments * maxPacket
	}
	return leastSegments * maxPacket
}

// chargeLocked reserves memory for up to n segments and returns for how many there is some.
func (c *conversation) chargeLocked(n int) int {
	s := &c.out
	want := int64(n) * maxPacket
	got := c.mem.take(want, s.charged)
	if rest := got % maxPacket; rest != 0 {
		c.mem.give(rest)
		got -= rest
	}
	if least := min(want, c.leastBytes()-s.charged); got < least {
		least -= least % maxPacket
		c.mem.force(least - got)
		got = least
	}
	s.charged += got
	s.starved = got == 0
	return int(got / maxPacket)
}

// settleLocked gives back what acknowledged segments held.
func (c *conversation) settleLocked() {
	s := &c.out
	if holds := int64(s.kcp.WaitSnd()) * maxPacket; holds < s.charged {
		c.mem.give(s.charged - holds)
		s.charged = holds
	}
}

// write hands the first bytes of p to kcp, and sends what the window has room for. It returns how many
// bytes it took, 0 if the caller must wait for room.
func (c *conversation) write(p []byte) int {
	c.mu.Lock()
	if c.closed || c.stopped {
		c.mu.Unlock()
		return len(p) // nobody will miss it
	}
	s := &c.out
	now := time.Now()
	if s.kcp == nil {
		c.attachLocked()
		c.fitLocked(now)
	}
	wake := !c.active
	c.active = true
	mss := s.mtu - kcp.IKCP_OVERHEAD
	// A little more than the window, so that acknowledgements find something to send.
	n := min(len(p), (s.window+s.window/8+16-s.kcp.WaitSnd())*mss)
	if n > 0 {
		n = min(n, c.chargeLocked(ceil(n, mss))*mss)
	}
	for rest := p[:max(n, 0)]; len(rest) > 0; {
		m := min(len(rest), mss)
		s.kcp.Send(rest[:m]) // cannot fail: it is one segment
		rest = rest[m:]
	}
	if flight := int(s.next - s.una); n > 0 && flight < s.window && len(s.refused) == 0 {
		if at := s.flushed.Add(time.Duration(flight) * flushGap); flight > manySegments && now.Before(at) {
			s.later = true
			c.wakeLocked(now, at)
		} else {
			c.flushLocked(now)
		}
	}
	c.mu.Unlock()
	if wake {
		c.gov.add(c)
	}
	return max(n, 0)
}

func (c *conversation) flushLocked(now time.Time) {
	s := &c.out
	s.later, s.stamped = false, false
	s.flushed = now
	next := flush(s.kcp, kcp.IKCP_FLUSH_FULL)
	s.due = now.Add(time.Duration(next) * time.Millisecond)
	if rtt := c.link.RTT(); s.stamped && rtt > 0 && (s.told == 0 || max(rtt-s.told, s.told-rtt) > s.told/4) {
		// An acknowledgement of nothing, from which kcp takes the round trip. It does not measure itself: what a segment
		// that waited for an outage to end would show is none, and its timeout would be a minute.
		s.told = rtt
		c.tellLocked(kcp.IKCP_CMD_ACK, s.lastTS-uint32(rtt/time.Millisecond), s.una)
	}
}

// tellLocked tells kcp that the peer has all segments before una. kcp sends more if that is news.
func (c *conversation) tellLocked(cmd byte, ts, una uint32) {
	s := &c.out
	una -= s.shift
	s.kcp.Input(appendHeader(s.input[:0], engineConv, cmd, ts, una-1, una), kcp.IKCP_PACKET_REGULAR, false) // well formed
}

// output sends the segments of a packet of kcp's that the peer is not known to have. What goes for the first time
// shares a packet; what goes again has one of its own, which the link may drop if it has that segment still.
// Were others in it they would be dropped too, and wait for kcp's timeout, which grows with an outage.
func (c *conversation) output(b []byte, size int) {
	s := &c.out
	fresh := 0 // bytes
	for rest := b[:size]; len(rest) >= kcp.IKCP_OVERHEAD; {
		h := header(rest)
		n := kcp.IKCP_OVERHEAD + h.size()
		sn := h.sn() + s.shift
		h.address(c.id, sn)
		again := int32(sn-s.next) < 0
		if again && (int32(sn-s.known) < 0 || s.reported.has(sn, s.una) || s.waits(sn) || !c.gov.resends.AllowN(s.flushed, n)) {
			rest = rest[n:]
			continue
		}
		h.stamp(c.in.next)
		s.lastTS, s.stamped = h.ts(), true
		if again {
			c.sendLocked(rest[:n])
		} else {
			s.next = sn + 1
			fresh += copy(b[fresh:], rest[:n])
		}
		rest = rest[n:]
	}
	if fresh > 0 {
		c.sendLocked(b[:fresh])
	}
}

// sendLocked gives the link a packet of segments, under the key of the first.
func (c *conversation) sendLocked(p []byte) {
	s := &c.out
	c.in.fresh, c.in.again = 0, false // acknowledged by una
	key := header(p).sn() + 1
	if !c.link.Send(c.id, key, p) && len(s.refused) < maxRefused && c.mem.takeAll(maxPacket, s.charged) {
		s.refused = append(s.refused, refusal{key, bytes.Clone(p)})
	}
}

// waits reports whether a segment was sent no earlier than the first that the link refused.
func (s *sender) waits(sn uint32) bool {
	return len(s.refused) > 0 && int32(sn+1-s.refused[0].key) >= 0
}

// offerLocked gives the link what it refused, as far as there is room now.
func (c *conversation) offerLocked() {
	s := &c.out
	n := 0
	for n < len(s.refused) && c.link.Send(c.id, s.refused[n].key, s.refused[n].p) {
		n++
	}
	c.mem.give(int64(n) * maxPacket)
	if s.refused = slices.Delete(s.refused, 0, n); len(s.refused) == 0 {
		s.refused = nil
	}
}

// acknowledgedLocked takes in what the peer says about segments sent: it has all before una, and if ack is
// set sn as well and what more that says.
func (c *conversation) acknowledgedLocked(h header, ack bool) {
	s := &c.out
	una := h.una()
	if s.kcp == nil {
		return
	}
	flight := s.next - s.una
	if sn := h.sn(); ack && int32(sn-una) > 0 && sn-s.una < flight {
		for more := min(h.more(), int(flight-(sn-s.una))-1); more >= 0; more-- {
			s.reported.set(sn+uint32(more), s.una)
		}
	}
	news := una - s.una
	if news <= s.known-s.una || news > flight {
		return
	}
	s.known = una
	// KCP looks at all segments in flight, so a little news waits for more; more will come unless this
	// is all.
	if news != flight && int(news) < s.window/applyShare {
		return
	}
	c.applyLocked()
}

// applyLocked tells kcp what is known.
func (c *conversation) applyLocked() {
	s := &c.out
	s.setWindow(max(s.base, s.window-int(s.known-s.una))) // those that waited are through
	s.reported.forget(s.una, s.known)
	s.una = s.known
	c.tellLocked(kcp.IKCP_CMD_WINS, 0, s.una)
	c.settleLocked()
	signal(c.room)
}

// fitLocked takes over what the link says.
func (c *conversation) fitLocked(now time.Time) {
	s := &c.out
	if s.mtu = c.mtuLocked(); s.mtu != s.engine.mtu {
		s.engine.mtu = s.mtu
		s.kcp.SetMtu(s.mtu) // it makes a buffer
	}
	s.base = max(c.link.Window(c.id)/s.mtu, minWindow)
	// What the peer holds behind a hole needs neither the path nor the link's queue. If it counted, the
	// path would run empty while the hole is repaired.
	held := max(int(s.next-s.una)-c.link.Pending(c.id), 0)
	if s.setWindow(min(s.base+held, maxWindow)) {
		signal(c.room)
		if s.kcp.WaitSnd() > int(s.next-s.una) {
			c.flushLocked(now)
		}
	}
	if rto := max(minTimeout, timeoutRounds*c.link.RTT()); rto-s.rto > s.rto/8 || s.rto-rto > s.rto/8 {
		s.rto = rto
		s.kcp.NoDelay(1, int(rto/time.Millisecond), 0, 1)
	}
}

// askLocked asks for an acknowledgement that was lost, by a segment that the peer has.
func (c *conversation) askLocked(now time.Time) {
	s := &c.out
	switch {
	case s.next == s.known || s.known == 0 || len(s.refused) > 0 || c.link.Pending(c.id) > 0:
		s.owedAt = time.Time{}
	case s.owedAt.IsZero() || s.owing != s.known:
		s.owing, s.owedAt = s.known, now
	case now.Sub(s.owedAt) >= max(askAfter, 2*c.link.RTT()):
		s.owedAt = now
		p := append(appendHeader(s.ask[:0], c.id, kcp.IKCP_CMD_PUSH, s.lastTS, s.known-1, c.in.next), 0)
		binary.LittleEndian.PutUint32(p[20:], 1)
		c.link.Send(c.id, s.known, p) // under that segment's key, which is free: during an outage one of them waits
	}
}

// setWindow sets how many segments may be unacknowledged and reports whether that is more than before.
func (s *sender) setWindow(n int) (more bool) {
	if n == s.window {
		return false
	}
	more = n > s.window
	s.window = n
	s.engine.most = max(s.engine.most, n)
	s.kcp.WndSize(n, openWindow)
	return more
}

// look is called by the governor now and then while there is something on its way. It reports whether
// there still is.
func (c *conversation) look(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.out
	if c.closed || s.kcp == nil {
		c.active = false
		return false
	}
	if s.kcp.WaitSnd() == 0 {
		c.active = false
		c.detachLocked()
		signal(c.room)
		return false
	}
	c.offerLocked()
	c.fitLocked(now)
	if s.known != s.una {
		c.applyLocked()
	}
	if !now.Before(s.due) {
		c.flushLocked(now)
	}
	c.askLocked(now)
	if s.starved && c.affordsLocked() > 0 {
		signal(c.room)
	}
	return true
}

// A bitmap remembers segments by number, as far as receiveWindow from the base of the moment.
type bitmap struct {
	words []uint64 // a ring; nil while there is nothing to remember
	n     int
}

func (m *bitmap) has(sn, base uint32) bool {
	if m.n == 0 || sn-base >= receiveWindow {
		return false
	}
	i := sn % receiveWindow
	return m.words[i/64]&(1<<(i%64)) != 0
}

func (m *bitmap) set(sn, base uint32) {
	if sn-base >= receiveWindow || m.has(sn, base) {
		return
	}
	if m.words == nil {
		m.words = make([]uint64, receiveWindow/64)
	}
	i := sn % receiveWindow
	m.words[i/64] |= 1 << (i % 64)
	m.n++
}

// forget clears what lies from base to before end.
func (m *bitmap) forget(base, end uint32) {
	for ; m.n > 0 && base != end; base++ {
		if i := base % receiveWindow; m.words[i/64]&(1<<(i%64)) != 0 {
			m.words[i/64] &^= 1 << (i % 64)
			m.n--
		}
	}
}
