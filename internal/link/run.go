package link

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"time"
)

const (
	batchPackets = 64    // what UDP_SEGMENT takes in one call,
	batchBytes   = 65000 // in packets and in bytes: what is beyond costs a call of its own
	never        = time.Duration(math.MaxInt64)

	leastSleep  = 200 * time.Microsecond
	closeCopies = 3
	closeGap    = 5 * time.Millisecond
)

// A batch is packets side by side, ready to be sealed in place.
type batch struct {
	n    int
	open int                               // the packet that others' payloads may join (bundle.go); -1: none
	end  [batchPackets + mostParts - 1]int // more than it holds: the last packet may be one of several fragments
	to   [batchPackets + mostParts - 1]netip.AddrPort
	buf  [batchBytes + 2*mostPacket]byte
}

// fits reports whether n more packets do, of whatever size.
func (b *batch) fits(n int) bool {
	return b.n+n <= batchPackets && b.start(b.n)+n*mostPacket <= batchBytes
}

func (b *batch) full() bool { return !b.fits(1) }

func (b *batch) start(i int) int {
	if i == 0 {
		return 0
	}
	return b.end[i-1]
}

// packet returns the i-th packet.
func (b *batch) packet(i int) []byte { return b.buf[b.start(i):b.end[i]] }

// run sends what there is to send. It is the link's only goroutine, and the only one that seals.
func (l *Link) run() {
	defer close(l.stopped)
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		l.mu.Lock()
		b := l.mux.batch.Get().(*batch)
		b.n, b.open = 0, -1
		now := l.now()
		wait := l.fillLocked(b, now)
		states, moved, err := l.states, l.moved, l.err
		l.states, l.moved = nil, false
		if b.n == 0 && err == nil && l.parked == running {
			l.parked = idle
			if l.sched.bytes+l.sched.lost > 0 {
				l.parked = blocked
			}
		}
		l.mu.Unlock()
		l.flush(b)
		n := b.n
		l.mux.batch.Put(b)
		if moved && l.cfg.OnMove != nil {
			l.cfg.OnMove()
		}
		for _, s := range states {
			if s != Closed && s != Dead {
				l.tell(s)
			}
		}
		if err != nil && n == 0 {
			break
		}
		if n > 0 || err != nil {
			continue
		}
		if wait != never {
			t.Reset(wait)
		} else {
			t.Reset(time.Hour)
		}
		select {
		case <-l.wake:
		case <-t.C:
		}
		l.mu.Lock()
		l.parked = running
		l.mu.Unlock()
	}
	l.finish(t)
}

func (l *Link) tell(s State) {
	l.log.Debug("link state", "state", s.String())
	if l.cfg.OnState != nil {
		l.cfg.OnState(s)
	}
}

// finish says goodbye and forgets the keys.
func (l *Link) finish(t *time.Timer) {
	err := l.Err()
	if errors.Is(err, ErrClosed) {
		l.sayClose(t)
	}
	l.mux.remove(l)
	l.rmu.Lock()
	l.opener.erase()
	l.rmu.Unlock()
	l.mu.Lock()
	l.sched = scheduler{dropped: l.sched.dropped}
	l.messages, l.replies = nil, nil
	l.cc.Forget()
	l.seal.key.erase()
	l.seal.fresh.erase()
	l.mu.Unlock()
	if errors.Is(err, ErrDead) {
		l.tell(Dead)
	} else {
		l.tell(Closed)
	}
}

func (l *Link) sayClose(t *time.Timer) {
	to := l.Remote()
	if !to.IsValid() {
		l.rmu.Lock()
		to = l.from // before Use, the peer may be up already
		l.rmu.Unlock()
	}
	if !to.IsValid() {
		return
	}
	b := l.mux.batch.Get().(*batch)
	defer l.mux.batch.Put(b)
	for i := range closeCopies {
		if i > 0 {
			t.Reset(closeGap)
			<-t.C
		}
		b.n, b.open = 0, -1
		l.mu.Lock()
		now := l.now()
		copy(l.addLocked(b, typeClose, len(l.live.reason), to, now, false), l.live.reason)
		l.mu.Unlock()
		l.flush(b)
	}
}

// addLocked appends a packet with room for n bytes of plaintext, which it returns. feedback says
// that the packet asks for it.
func (l *Link) addLocked(b *batch, typ byte, n int, to netip.AddrPort, now time.Duration, feedback bool) []byte {
	start := b.start(b.n)
	end := start + n + overheadBytes
	l.seal.counter++
	putHeader(b.buf[start:], typ, l.seal.epoch, l.cfg.RemoteIndex, l.seal.counter)
	b.end[b.n], b.to[b.n] = end, to
	b.n++
	l.sentAll.packets++
	l.sentAll.bytes += uint64(end - start)
	if feedback {
		l.pmtu.sent(l.seal.counter, end-start, l.cc.Acked(), now)
		old := l.cc.Sent(l.seal.counter, end-start, now)
		for p := old.Load; p != nil; {
			next := *p.mate(old.Counter)
			if p.state == stateFlying && p.at[1] == old.Counter {
				l.loseLocked(p, now) // a report of it would not be understood any more
			}
			p = next
		}
	}
	if l.live.begun {
		l.live.sent(now, feedback)
	}
	return b.buf[start+headerBytes : end-tagBytes]
}

func (l *Link) addShortLocked(b *batch, kind byte, value uint64, to netip.AddrPort, now time.Duration) {
	p := l.addLocked(b, typeControl, shortBytes, to, now, false)
	p[0] = kind
	binary.BigEndian.PutUint64(p[1:], value)
}

// addPingLocked appends a PING of size bytes, or of as few as it takes.
func (l *Link) addPingLocked(b *batch, to netip.AddrPort, size int, probe chan<- time.Duration, now time.Duration) {
	p := l.addLocked(b, typeControl, max(size-overheadBytes, 1), to, now, false)
	clear(p)
	p[0] = kindPing
	l.pings[l.pingNext%len(l.pings)] = ping{l.seal.counter, now, to, size, probe}
	l.pingNext++
}

// fillLocked puts into b what may leave now and returns how long to wait if that is nothing.
func (l *Link) fillLocked(b *batch, now time.Duration) time.Duration {
	if l.err == nil && l.seal.due(now, max(l.cc.Acked(), l.confirmed)) {
		if l.seal.free {
			l.live.nudged = l.live.begun // the peer follows when it gets a packet
		}
		l.seal.ratchet(now)
	}
	n := 0
	for n < len(l.replies) && !b.full() {
		r := l.replies[n]
		l.addShortLocked(b, r.kind, r.value, r.to, now)
		n++
	}
	l.replies = append(l.replies[:0], l.replies[n:]...)
	next := never
	if l.err == nil {
		n = 0
		for n < len(l.probes) && !b.full() {
			l.addPingLocked(b, l.probes[n].to, 0, l.probes[n].done, now)
			n++
		}
		l.probes = append(l.probes[:0], l.probes[n:]...)
		next = l.sched.tick(now)
		if next == 0 {
			next = never
		}
	}
	remote := l.remote.Load()
	if remote == nil {
		return until(next, now)
	}
	to := *remote
	if l.err == nil {
		due, at := l.watchLocked(now)
		if due && l.err == nil && !b.full() {
			l.addPingLocked(b, to, 0, nil, now)
			l.live.sent(now, true)
			l.live.pinged(now)
			l.live.keepalive = keepalive()
		}
		next = min(next, at)
		next = min(next, l.fillChallengeLocked(b, now))
		if !l.live.consent(now) {
			return until(next, now) // what comes next wakes run
		}
		next = min(next, l.fillFeedbackLocked(b, to, now))
		next = min(next, l.fillSizesLocked(b, to, now))
	}
	if l.err == nil || errors.Is(l.err, ErrClosed) {
		next = min(next, l.fillMessagesLocked(b, to, now))
		next = min(next, l.fillDataLocked(b, to, now))
	}
	return until(next, now)
}

// until returns how long to sleep.
func until(next, now time.Duration) time.Duration {
	if next == never {
		return never
	}
	return max(next-now, leastSleep)
}

func (l *Link) fillChallengeLocked(b *batch, now time.Duration) time.Duration {
	c := &l.path
	if !c.to.IsValid() {
		return never
	}
	if now >= c.next && !b.full() {
		if c.tries == challengeTries {
			*c = challenge{hold: c.hold}
			return never
		}
		l.addShortLocked(b, kindChallenge, c.token, c.to, now)
		c.sentAt = now
		c.next = now + min(resendLeast<<c.tries, resendMost)
		c.tries++
	}
	return c.next
}

func (l *Link) fillFeedbackLocked(b *batch, to netip.AddrPort, now time.Duration) time.Duration {
	if b.full() {
		return now
	}
	l.rmu.Lock()
	var p [mostFeedbackBytes]byte
	n := 0
	if f := l.report.take(&l.opener.window, min(mostFeedbackBytes, l.pmtu.size-overheadBytes), now); f != nil {
		f.buffer = l.cfg.ReceiveBuffer
		n = f.put(p[:])
	}
	due, end := l.report.due, l.halves.tick(now)
	l.rmu.Unlock()
	if n > 0 {
		copy(l.addLocked(b, typeControl, n, to, now, false), p[:n])
	}
	if due == 0 {
		return end
	}
	return min(due, end)
}

func (l *Link) fillMessagesLocked(b *batch, to netip.AddrPort, now time.Duration) time.Duration {
	next := never
	for i := range l.messages {
		m := &l.messages[i]
		if l.err != nil && m.tries > 0 {
			continue // at the end each is sent once
		}
		if now >= m.next && !b.full() {
			l.addMessageLocked(b, m, to, now)
			m.tries++
			m.next = now + m.resend(l.cc.SmoothedRTT())
		}
		next = min(next, m.next)
	}
	return next
}

// fillDataLocked sends flow 0, and of the flows, in turns, what pacing and the window allow.
func (l *Link) fillDataLocked(b *batch, to netip.AddrPort, now time.Duration) time.Duration {
	for !b.full() && !l.sched.urgent.empty() {
		l.sendLocked(b, l.sched.popUrgent(), to, now)
	}
	if l.err != nil {
		return never
	}
	next := l.fillTwinsLocked(b, to, now)
	next = min(next, l.watchRepairsLocked(b, to, now))
	waiting := l.sched.bytes + l.sched.lost
	if waiting == 0 {
		l.cc.Idle()
		return next
	}
	if at := l.cc.Turn(waiting, now); at > now {
		return min(next, at)
	}
	l.sched.quantum = int(min(l.cc.State().Pace*turnTime.Seconds(), batchBytes))
	l.sched.patience = l.cc.Patience(now)
	for !b.full() && l.cc.Open(now) {
		p := l.sched.pop(now)
		if p == nil {
			return next
		}
		l.sendLocked(b, p, to, now)
	}
	if b.n > 0 {
		return now
	}
	// The window is full: either feedback comes, or all that is in flight is lost.
	if at := l.cc.Timeout(); now < at {
		return min(next, at)
	}
	l.stallLocked(now)
	return now
}

// fillTwinsLocked sends for the second time what is due.
func (l *Link) fillTwinsLocked(b *batch, to netip.AddrPort, now time.Duration) time.Duration {
	for !b.full() {
		p, next := l.repairs.twins.due(now)
		if p == nil {
			return next
		}
		l.repairs.flying.remove(p)
		p.state = stateQueued // on no list
		l.addDataLocked(b, p, to, now)
	}
	return now
}

// sendLocked sends what the scheduler gave.
func (l *Link) sendLocked(b *batch, p *packet, to netip.AddrPort, now time.Duration) {
	if p.at[1] != 0 {
		l.repairs.resent++
	}
	l.addDataLocked(b, p, to, now)
}

// addDataLocked sends a packet that is on no list.
func (l *Link) addDataLocked(b *batch, p *packet, to netip.AddrPort, now time.Duration) {
	if p.n > l.pmtu.size-overheadBytes && p.typ == typeData {
		for _, q := range l.splitLocked(p) {
			if q != nil {
				l.addDataLocked(b, q, to, now)
			}
		}
	}
	if !l.bundleLocked(b, p, to) {
		copy(l.addLocked(b, p.typ, p.n, to, now, true), p.b[:p.n])
		if p.typ == typeData {
			b.open = b.n - 1
		}
	}
	if p.key == 0 {
		l.sched.release(p)
		return
	}
	l.flyLocked(p, now)
	l.thinLocked(p, now)
}

// flush seals a batch and sends it: runs of packets of one size to one address, of which the last
// may be shorter, leave together.
func (l *Link) flush(b *batch) {
	for i := range b.n {
		l.seal.seal(b.packet(i))
	}
	for i := 0; i < b.n; {
		size := len(b.packet(i))
		j := i + 1
		for j < b.n && b.to[j] == b.to[i] && len(b.packet(j)) <= size && len(b.packet(j-1)) == size {
			j++
		}
		_ = l.cfg.Socket.Send(b.buf[b.start(i):b.end[j-1]], size, b.to[i]) // a loss; silence is noticed
		i = j
	}
}
