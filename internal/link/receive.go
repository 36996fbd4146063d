package link

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	"adit/internal/congestion"
)

// A report is what the next FEEDBACK will say. Guarded by Link.rmu.
type report struct {
	feedback
	every   int           // packets after which it is due at once
	at      time.Duration // when highest arrived
	pending int           // packets since the last one
	due     time.Duration // when it is due all the same; 0 if nothing is pending
	told    bool          // run knows that it is due at once
}

func (r *report) add(counter uint64, size int, now time.Duration) {
	if counter > r.highest {
		r.highest, r.at = counter, now
	}
	r.packets++
	r.bytes += uint64(size)
	r.pending++
}

// take returns the feedback if it is due, or nil; it is valid as long as rmu is held. w has the counters
// that came.
func (r *report) take(w *replayWindow, most int, now time.Duration) *feedback {
	if r.pending == 0 || r.pending < r.every && (r.due == 0 || now < r.due) {
		return nil
	}
	r.pending, r.due, r.told = 0, 0, false
	r.came = r.at
	r.delay = max(now-r.at, 0) // run took its time before the packet came
	r.fill(w, most)
	return &r.feedback
}

// receive takes in one packet with this link's index.
func (l *Link) receive(p []byte, from netip.AddrPort, now time.Duration) {
	l.rmu.Lock()
	if l.ended {
		l.rmu.Unlock()
		return
	}
	was := l.opener.fresh.aead != nil
	plain, highest, ok := l.opener.open(p, now)
	if !ok {
		l.rmu.Unlock()
		return
	}
	rekeyed := was && l.opener.fresh.aead == nil
	if l.opener.turned {
		l.opener.turned = false
		time.AfterFunc(oldEpochFor, l.expireEpoch)
	}
	l.recvd.packets++
	l.recvd.bytes += uint64(len(p))
	if highest {
		l.from = from
	}
	typ := packetType(p)
	if typ == typeData || typ == typeBundle || typ == typeFragment || typ == typeControl && len(plain) > 0 && plain[0] == kindMessage {
		l.report.add(packetCounter(p), len(p), now)
		l.dataAt.Store(int64(now))
	}
	l.rmu.Unlock()

	if rekeyed {
		l.rekeyed()
	}
	switch r := l.remote.Load(); {
	case r == nil:
	case *r == from:
		l.pathAt.Store(int64(now))
	case highest:
		l.challenge(from, now)
	}
	if l.broken.Load() {
		l.poke()
	}
	switch {
	case len(plain) == 0 && typ != typeClose:
	case typ == typeData:
		if f := l.handler.Load(); f != nil {
			(*f)(plain)
		}
	case typ == typeBundle:
		l.receiveBundle(plain)
	case typ == typeFragment:
		l.receiveFragment(plain, from, now)
	case typ == typeControl:
		l.receiveControl(plain, packetCounter(p), from, now)
	case typ == typeClose:
		l.mu.Lock()
		l.endLocked(peerClosed(plain))
		l.mu.Unlock()
		l.poke()
	}
}

func (l *Link) expireEpoch() {
	l.rmu.Lock()
	defer l.rmu.Unlock()
	l.opener.expire(l.now())
}

// received ends a batch: the peer wants to know.
func (l *Link) received() {
	l.rmu.Lock()
	r := &l.report
	wake := false
	switch {
	case r.pending >= r.every && !r.told:
		r.told, wake = true, true
	case r.pending > 0 && r.due == 0:
		r.due = l.now() + congestion.FeedbackInterval(l.RTT())
		wake = true
	}
	l.rmu.Unlock()
	if wake {
		l.poke()
	}
}

// A PeerClosedError is an ErrPeerClosed with the peer's reason, which may be any text without control characters,
// and is not empty.
type PeerClosedError struct{ Reason string }

func (e *PeerClosedError) Error() string { return ErrPeerClosed.Error() + ": " + e.Reason }
func (e *PeerClosedError) Unwrap() error { return ErrPeerClosed }

// peerClosed makes an error of the peer's reason, which may be anything.
func peerClosed(reason []byte) error {
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\ufffd' {
			return -1
		}
		return r
	}, string(reason[:min(len(reason), reasonBytes)]))
	if s == "" {
		return ErrPeerClosed
	}
	return &PeerClosedError{s}
}

func (l *Link) receiveControl(b []byte, counter uint64, from netip.AddrPort, now time.Duration) {
	var value uint64
	if len(b) >= shortBytes {
		value = binary.BigEndian.Uint64(b[1:])
	}
	short := len(b) == shortBytes
	switch kind := b[0]; {
	case (kind == kindPing || kind == kindChallenge || kind == kindMessage) && !l.demanded():
	case kind == kindPing:
		l.dataAt.Store(0) // the PONG tells the peer; should it be lost, the peer asks again
		l.reply(kindPong, counter, from)
	case kind == kindPong && short:
		l.mu.Lock()
		l.pongLocked(value, now)
		l.mu.Unlock()
	case kind == kindChallenge && short:
		l.reply(kindResponse, value, from)
	case kind == kindResponse && short:
		l.mu.Lock()
		l.responseLocked(value, from, now)
		l.mu.Unlock()
	case kind == kindFeedback:
		l.mu.Lock()
		wake := l.news.parse(b) && l.feedbackLocked(&l.news, now)
		l.mu.Unlock()
		if wake {
			l.poke()
		}
	case kind == kindMessage && len(b) >= shortBytes:
		l.rmu.Lock()
		first := l.msgSeen.fresh(value)
		if first {
			l.msgSeen.accept(value)
		}
		l.rmu.Unlock()
		l.reply(kindAck, value, from) // again for each copy: an earlier one may be lost
		if first && l.cfg.OnControl != nil {
			l.cfg.OnControl(b[shortBytes:], from)
		}
	case kind == kindAck && short:
		l.mu.Lock()
		for i := range l.messages {
			if l.messages[i].id == value {
				l.messages = append(l.messages[:i], l.messages[i+1:]...)
				break
			}
		}
		l.mu.Unlock()
	}
}

// feedbackLocked takes in a feedback. It reports whether run must be woken.
func (l *Link) feedbackLocked(f *feedback, now time.Duration) bool {
	acked := l.cc.Acked()
	if !l.cc.Report(f.report(), now) {
		return false
	}
	l.rtt.Store(int64(l.cc.SmoothedRTT()))
	sent, arrived := l.cc.Packets()
	l.repairs.twins.observe(sent, arrived, now)
	l.sizesLocked(f, acked, now)
	more := l.reportLocked(f, acked, now)
	return l.parked == blocked || l.parked == idle && (more || l.seal.free)
}

// Wrote reports whether head is how a packet begins that this link has sent, of the last thousands: who sends that
// back has seen one.
func (l *Link) Wrote(head []byte) bool {
	if len(head) < headerBytes || head[0]&0xc0 != 0x80 || packetIndex(head) != l.cfg.RemoteIndex {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := packetCounter(head)
	return c > 0 && c <= l.seal.counter && l.seal.counter-c < replayPackets
}
