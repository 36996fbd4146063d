package link

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net/netip"
	"time"
)

const (
	directFor    = 2 * time.Second // without a packet over it, a direct path is one no longer
	mostReplies  = 64              // answers that wait to be sent; more are dropped
	mostMessages = 64              // control messages without acknowledgement
	mostProbes   = 64
	resendLeast  = 50 * time.Millisecond
	resendMost   = time.Second

	challengeTries = 6
	challengeGap   = 10 * time.Millisecond  // between challenges, whatever comes
	pathHold       = 100 * time.Millisecond // to 300 ms after a move, so that two peers do not swap paths for ever
)

// A reply answers a packet, at the address where it came from. It is never longer than the packet.
type reply struct {
	to    netip.AddrPort
	value uint64
	kind  byte
}

func (l *Link) reply(kind byte, value uint64, to netip.AddrPort) {
	l.mu.Lock()
	if len(l.replies) < mostReplies {
		l.replies = append(l.replies, reply{to, value, kind})
	}
	l.mu.Unlock()
	l.poke()
}

// A ping is a PING without its PONG.
type ping struct {
	counter uint64
	sentAt  time.Duration
	to      netip.AddrPort
	size    int                  // of a probe for the path's MTU; 0 for others
	probe   chan<- time.Duration // capacity 1; nil for a keepalive
}

type probeRequest struct {
	to   netip.AddrPort
	done chan<- time.Duration
}

// Probe sends a sealed PING to an address and repeats it, after 50 ms at first and then after twice
// the time up to a second, until the PONG comes. It returns the round trip time. It needs no earlier
// Use. It fails with ctx's cause, or when the link ends.
func (l *Link) Probe(ctx context.Context, to netip.AddrPort) (rtt time.Duration, err error) {
	to = unmap(to)
	done := make(chan time.Duration, 1)
	wait := resendLeast
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case rtt := <-done:
			return rtt, nil
		case <-ctx.Done():
			return 0, fmt.Errorf("probe %v: %w", to, context.Cause(ctx))
		case <-l.done:
			return 0, fmt.Errorf("probe %v: %w", to, l.Err())
		case <-t.C:
			l.mu.Lock()
			if len(l.probes) < mostProbes {
				l.probes = append(l.probes, probeRequest{to, done})
			}
			l.mu.Unlock()
			l.poke()
			t.Reset(wait)
			wait = min(2*wait, resendMost)
		}
	}
}

// Ping sends one sealed PING to where packets go and returns the round trip time. Unlike Probe it does
// not repeat it: a lost one costs the caller its patience, which is ctx's. It fails with ctx's cause,
// when the link ends, and before Use.
func (l *Link) Ping(ctx context.Context) (rtt time.Duration, err error) {
	to := l.Remote()
	if !to.IsValid() {
		return 0, errors.New("ping: no path yet")
	}
	done := make(chan time.Duration, 1)
	l.mu.Lock()
	if len(l.probes) < mostProbes {
		l.probes = append(l.probes, probeRequest{to, done})
	}
	l.mu.Unlock()
	l.poke()
	select {
	case rtt := <-done:
		return rtt, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("ping %v: %w", to, context.Cause(ctx))
	case <-l.done:
		return 0, fmt.Errorf("ping %v: %w", to, l.Err())
	}
}

func (l *Link) pongLocked(counter uint64, now time.Duration) {
	for i := range l.pings {
		p := &l.pings[i]
		if p.counter != counter || counter == 0 {
			continue
		}
		rtt := max(now-p.sentAt, time.Microsecond)
		l.confirmed = max(l.confirmed, counter)
		if l.seal.free {
			l.poke() // the next epoch may be due
		}
		if p.probe != nil {
			select {
			case p.probe <- rtt:
			default: // an earlier PING of the same probe was answered
			}
			l.probed, l.probedRTT = p.to, rtt
		}
		if r := l.remote.Load(); r != nil && *r == p.to {
			if p.size != 0 && l.pmtu.answered(p.size, p.sentAt, now) {
				l.resizeLocked()
				l.poke()
			}
			l.cc.RoundTrip(rtt, now)
			l.rtt.Store(int64(l.cc.SmoothedRTT()))
		}
		*p = ping{}
		return
	}
}

// lastRTTLocked returns what the last probe of an address found, or 0.
func (l *Link) lastRTTLocked(to netip.AddrPort) time.Duration {
	if l.probed == to {
		return l.probedRTT
	}
	return 0
}

// A message is a control message that the peer did not acknowledge yet.
type message struct {
	id    uint64
	data  []byte
	next  time.Duration // when to send it (again)
	tries int
}

// resend returns how long to wait for the acknowledgement of a message.
func (m *message) resend(rtt time.Duration) time.Duration {
	least := max(resendLeast, rtt+rtt/2)
	return min(least<<min(m.tries-1, 10), max(resendMost, least))
}

// SendControl queues a message of at most MaxControl bytes for the peer's OnControl, and repeats it
// until it is acknowledged or the link ends. It does not wait. Each message is handed over once, not
// always in order. Errors: ErrSize, ErrBusy, and what ended the link.
func (l *Link) SendControl(b []byte) error {
	if len(b) > messageBytes {
		return fmt.Errorf("send control message of %d bytes, at most %d: %w", len(b), messageBytes, ErrSize)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch n := len(l.messages); {
	case l.err != nil:
		return fmt.Errorf("send control message: %w", l.err)
	case n >= mostMessages || n > 0 && l.nextID-l.messages[0].id >= replayPackets:
		return fmt.Errorf("send control message: %w", ErrBusy)
	}
	l.messages = append(l.messages, message{id: l.nextID, data: append([]byte(nil), b...)})
	l.nextID++
	l.poke()
	return nil
}

// A challenge asks a new source whether the peer is really there (RFC 9000 §8.2, §9.3).
type challenge struct {
	to     netip.AddrPort // invalid: none is open
	token  uint64
	next   time.Duration // when to send it (again)
	sentAt time.Duration
	tries  int
	hold   time.Duration // no other before this
}

// challenge begins to ask a source from which the newest packet came.
func (l *Link) challenge(from netip.AddrPort, now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.remote.Load(); r == nil || *r == from || l.path.to == from || now < l.path.hold {
		return
	} else if f := l.cfg.Relayed; f != nil && f(from) && !f(*r) && now-time.Duration(l.pathAt.Load()) < directFor {
		return // the peer's packets may take both ways while it changes over
	}
	var b [8]byte
	rand.Read(b[:])
	l.path = challenge{to: from, token: binary.BigEndian.Uint64(b[:]), next: now, hold: now + challengeGap}
	l.poke()
}

// responseLocked moves the link to an address that answered, unless newer packets came from elsewhere.
func (l *Link) responseLocked(token uint64, from netip.AddrPort, now time.Duration) {
	c := &l.path
	if !c.to.IsValid() || c.tries == 0 || c.to != from || c.token != token {
		return
	}
	l.rmu.Lock()
	newest := l.from
	l.rmu.Unlock()
	if newest != from {
		return
	}
	rtt := time.Duration(0)
	if c.tries == 1 {
		rtt = now - c.sentAt
	}
	l.log.Info("peer moved", "from", l.Remote(), "to", from)
	l.moveLocked(from, rtt, now)
	l.path = challenge{hold: now + pathHold + mrand.N(2*pathHold)}
	l.poke()
}
