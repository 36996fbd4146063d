// In package link: this file holds the link to times that have no exported name.

package link

import (
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/testtier"
)

// After half a minute without an answer a peer is sent nothing but small PINGs, and few. When the path is
// there again so is the data, within two seconds.
func TestConsent(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{5 * time.Second, time.Minute, 11 * time.Minute, 59*time.Minute + 300*time.Millisecond} {
		t.Run(d.String(), func(t *testing.T) {
			if d != time.Minute {
				testtier.Long(t)
			}
			synctest.Test(t, func(t *testing.T) {
				s := shape{rate: 100e6 / 8, queue: 600_000, delay: 20 * time.Millisecond}
				p := newPair(t, s, s, func(a, b *Config) { a.DeadAfter, b.DeadAfter = 2*time.Hour, 2*time.Hour })
				defer p.close()
				var m meter
				p.b.Receive(m.take)
				p.up(t)
				f := feed(p.a, 1)
				defer f.stop()
				time.Sleep(2 * time.Second)
				down := func(is bool) {
					for _, q := range []*pipe{p.ab, p.ba} {
						q.set(func(q *pipe) { q.down = is })
					}
				}
				down(true)
				time.Sleep(min(d, consentFor+time.Second))
				packets, bytes := p.a.Stats().SentPackets, p.a.Stats().SentBytes
				time.Sleep(max(d-consentFor-time.Second, 0))
				packets, bytes = p.a.Stats().SentPackets-packets, p.a.Stats().SentBytes-bytes
				t.Logf("after half a minute: %d packets, %d bytes", packets, bytes)
				if most := uint64(max(d-consentFor, 0)/(pingInterrupted/2)) + 1; packets > most || bytes > 64*packets {
					t.Errorf("%d packets of %d bytes to a peer that has been silent for half a minute", packets, bytes)
				}
				down(false)
				m.reset()
				time.Sleep(2 * time.Second)
				if got := mbit(m.reset()[1], 2*time.Second); got < 10 {
					t.Errorf("%.1f Mbit/s in the two seconds after", got)
				}
			})
		})
	}
}

// A receiver that hears no more asks, so that its NAT lets the sender in again; once, if it is answered.
func TestTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, shape{delay: 10 * time.Millisecond}, shape{delay: 10 * time.Millisecond}, nil)
		defer p.close()
		p.up(t)
		time.Sleep(time.Second)
		for range 3 {
			before := p.b.Stats().SentPackets
			p.a.Send(1, 0, []byte("x"))
			time.Sleep(tailAfter)
			if n := p.b.Stats().SentPackets - before; n != 1 {
				t.Errorf("%d packets for one, want the feedback", n)
			}
			time.Sleep(10 * time.Second)
			if n := p.b.Stats().SentPackets - before; n != 2 {
				t.Errorf("%d packets for one, want the feedback and a PING", n)
			}
		}
	})
}

func TestNudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		states := make(chan State, 10)
		p := newPair(t, shape{delay: 10 * time.Millisecond}, shape{delay: 10 * time.Millisecond}, func(a, b *Config) {
			a.OnState = func(s State) { states <- s }
		})
		defer p.close()
		p.a.Nudge() // nothing to nudge yet
		p.up(t)
		time.Sleep(time.Second)
		before := p.a.Stats().SentPackets
		p.a.Nudge()
		time.Sleep(time.Second)
		if n := p.a.Stats().SentPackets - before; n != 1 {
			t.Errorf("%d packets, want a PING", n)
		}
		p.ba.set(func(p *pipe) { p.down = true })
		start := time.Now()
		p.a.Nudge()
		if s := <-states; s != Suspect || time.Since(start) != suspectAfter {
			t.Errorf("%v after %v, want %v after %v", s, time.Since(start), Suspect, suspectAfter)
		}
	})
}
