// In package link: this file forges packets and looks at epochs and keys.

package link

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestData(t *testing.T) {
	for _, aes := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, shape{delay: 10 * time.Millisecond}, shape{delay: 10 * time.Millisecond}, func(a, b *Config) { a.AES, b.AES = aes, aes })
			defer p.close()
			got := make(chan string, 10)
			p.b.Receive(func(b []byte) { got <- string(b) })
			rtt, err := p.a.Probe(t.Context(), addrB)
			if err != nil || rtt != 20*time.Millisecond {
				t.Errorf("Probe: %v, %v, want 20ms", rtt, err)
			}
			if got := p.a.Remote(); got.IsValid() {
				t.Errorf("remote %v before Use", got)
			}
			p.up(t)
			if p.a.Remote() != addrB {
				t.Errorf("remote %v, want %v", p.a.Remote(), addrB)
			}
			for _, s := range []string{"a", strings.Repeat("b", p.a.MTU()), strings.Repeat("c", mostMTU)} {
				if !p.a.Send(7, 0, []byte(s)) {
					t.Error("Send refused")
				}
				if g := <-got; g != s {
					t.Errorf("got %.10q, want %.10q", g, s)
				}
			}
			if p.a.Send(7, 0, nil) || p.a.Send(7, 0, make([]byte, mostMTU+1)) {
				t.Error("Send took a payload of a wrong size")
			}
			if got := p.a.RTT(); got != 20*time.Millisecond {
				t.Errorf("RTT %v, want 20ms", got)
			}
		})
	}
}

func TestQueueBeforeUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, shape{}, shape{}, nil)
		defer p.close()
		got := make(chan string, 1)
		p.b.Receive(func(b []byte) { got <- string(b) })
		p.a.Send(1, 0, []byte("early"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if n, _ := p.ab.counts(); n != 0 {
			t.Errorf("%d packets sent before Use", n)
		}
		p.up(t)
		if g := <-got; g != "early" {
			t.Errorf("got %q", g)
		}
	})
}

func TestPeerClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var states []State
		p := newPair(t, shape{delay: time.Millisecond}, shape{}, func(a, b *Config) {
			b.OnState = func(s State) {
				mu.Lock()
				states = append(states, s)
				mu.Unlock()
			}
		})
		defer p.close()
		p.up(t)
		got := make(chan string, 1)
		p.b.Receive(func(b []byte) { got <- string(b) })
		p.a.Send(0, 0, []byte("last words"))
		p.ab.set(func(p *pipe) { p.loss = 0.3 })
		p.a.Close("had enough\n\x1b[2J")
		p.a.Close("again")
		if err := p.a.Err(); !errors.Is(err, net.ErrClosed) || !errors.Is(err, ErrClosed) {
			t.Errorf("own error %v, want ErrClosed", err)
		}
		<-p.b.Done()
		if err := p.b.Err(); !errors.Is(err, ErrPeerClosed) || err.Error() != "link closed by the peer: had enough[2J" {
			t.Errorf("peer's error %q", err)
		}
		if p.b.Send(1, 0, []byte("x")) || p.b.SendControl(nil) == nil {
			t.Error("a closed link takes packets")
		}
		if _, err := p.b.Probe(t.Context(), addrA); !errors.Is(err, ErrPeerClosed) {
			t.Errorf("Probe: %v, want ErrPeerClosed", err)
		}
		p.b.Close("")
		if len(states) != 1 || states[0] != Closed {
			t.Errorf("states %v, want closed", states)
		}
	})
}

func TestCloseBeforeUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, shape{}, shape{}, nil)
		defer p.close()
		if _, err := p.a.Probe(t.Context(), addrB); err != nil {
			t.Fatal(err)
		}
		p.b.Close("no")
		<-p.a.Done()
		if !errors.Is(p.a.Err(), ErrPeerClosed) {
			t.Errorf("got %v, want ErrPeerClosed", p.a.Err())
		}
	})
}

func TestInterruptedAndDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		states := make(chan State, 10)
		p := newPair(t, shape{delay: 10 * time.Millisecond}, shape{delay: 10 * time.Millisecond}, func(a, b *Config) {
			a.OnState = func(s State) { states <- s }
		})
		defer p.close()
		p.up(t)
		time.Sleep(10 * time.Minute) // idle: keepalives only
		synctest.Wait()
		select {
		case s := <-states:
			t.Fatalf("state %v of an idle link", s)
		default:
		}
		if s := p.a.Stats(); s.SentPackets > 80 {
			t.Errorf("%d packets in ten idle minutes", s.SentPackets)
		}
		for range 2 {
			start := time.Now()
			p.ba.set(func(p *pipe) { p.down = true })
			p.a.Send(1, 0, []byte("x"))
			for _, want := range []struct {
				s  State
				at time.Duration
			}{{Suspect, 700 * time.Millisecond}, {Interrupted, 3 * time.Second}} {
				if s := <-states; s != want.s || time.Since(start) != want.at {
					t.Errorf("%v after %v, want %v after %v", s, time.Since(start), want.s, want.at)
				}
			}
			p.ba.set(func(p *pipe) { p.down = false })
			if s := <-states; s != Up || time.Since(start) > 4100*time.Millisecond {
				t.Errorf("%v after %v, want up at the next PING", s, time.Since(start))
			}
			time.Sleep(time.Second)
		}
		start := time.Now()
		p.ab.set(func(p *pipe) { p.down = true })
		p.ba.set(func(p *pipe) { p.down = true })
		p.a.Send(1, 0, []byte("x"))
		for _, want := range []State{Suspect, Interrupted} {
			if s := <-states; s != want {
				t.Errorf("%v, want %v", s, want)
			}
		}
		<-p.a.Done()
		if d := time.Since(start); p.a.Err() != ErrDead || d < 599*time.Second || d > 601*time.Second {
			t.Errorf("%v after %v, want ErrDead after 10 minutes", p.a.Err(), d)
		}
		if s := <-states; s != Dead {
			t.Errorf("%v, want dead", s)
		}
	})
}

// A link that is given up soon is interrupted before, so that another path is looked for while there is time.
func TestInterruptedBeforeDead(t *testing.T) {
	for _, dead := range []time.Duration{500 * time.Millisecond, 2 * time.Second, 7 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			states := make(chan State, 10)
			p := newPair(t, shape{delay: 300 * time.Millisecond}, shape{delay: 300 * time.Millisecond}, func(a, b *Config) {
				a.OnState = func(s State) { states <- s }
				a.DeadAfter = dead
			})
			defer p.close()
			p.up(t)
			time.Sleep(5 * time.Second) // nothing is on its way any more
			for len(states) > 0 {
				<-states
			}
			p.ab.set(func(p *pipe) { p.down = true })
			p.ba.set(func(p *pipe) { p.down = true })
			p.a.Send(1, 0, []byte("x"))
			start := time.Now()
			for _, want := range []State{Suspect, Interrupted} {
				if s := <-states; s != want {
					t.Errorf("%v: %v, want %v", dead, s, want)
				}
			}
			if d := time.Since(start); d > dead/2+time.Millisecond {
				t.Errorf("%v: interrupted after %v", dead, d)
			}
			if s := <-states; s != Dead {
				t.Errorf("%v: %v, want dead", dead, s)
			}
		})
	}
}

// A peer that vanishes while nothing is sent is noticed too.
func TestIdleDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, shape{}, shape{}, func(a, b *Config) { a.DeadAfter = 3 * time.Second })
		defer p.close()
		p.up(t)
		start := time.Now()
		p.ba.set(func(p *pipe) { p.down = true })
		<-p.a.Done()
		if d := time.Since(start); d < 23*time.Second || d > 29*time.Second {
			t.Errorf("dead after %v, want one keepalive and 3s", d)
		}
	})
}

func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, shape{delay: 5 * time.Millisecond, down: true}, shape{delay: 5 * time.Millisecond}, nil)
		defer p.close()
		ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Second, errors.New("enough"))
		defer cancel()
		if _, err := p.a.Probe(ctx, addrB); err == nil || !strings.Contains(err.Error(), "enough") {
			t.Errorf("Probe: %v, want the cause", err)
		}
		if n, _ := p.ab.counts(); n < 5 || n > 8 {
			t.Errorf("%d PINGs in 3 s", n)
		}
		time.AfterFunc(300*time.Millisecond, func() { p.ab.set(func(p *pipe) { p.down = false }) })
		rtt, err := p.a.Probe(t.Context(), addrB)
		if err != nil || rtt != 10*time.Millisecond {
			t.Errorf("Probe: %v, %v, want 10ms", rtt, err)
		}
	})
}

func TestControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := make(chan uint32, 1000)
		lossy := shape{delay: 20 * time.Millisecond, jitter: 20 * time.Millisecond, loss: 0.3, double: 0.1}
		p := newPair(t, lossy, lossy, func(a, b *Config) {
			b.OnControl = func(b []byte, _ netip.AddrPort) { got <- binary.BigEndian.Uint32(b) }
		})
		defer p.close()
		p.up(t)
		const n = 300
		seen := make(map[uint32]bool)
		for i := range uint32(n) {
			b := binary.BigEndian.AppendUint32(nil, i)
			for {
				err := p.a.SendControl(b)
				if err == nil {
					break
				}
				if !errors.Is(err, ErrBusy) {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		for range n {
			i := <-got
			if seen[i] {
				t.Errorf("message %d twice", i)
			}
			seen[i] = true
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if len(got) > 0 {
			t.Error("messages came again")
		}
		p.a.mu.Lock()
		if n := len(p.a.messages); n > 0 {
			t.Errorf("%d messages are still repeated", n)
		}
		p.a.mu.Unlock()
		if err := p.a.SendControl(make([]byte, MaxControl+1)); !errors.Is(err, ErrSize) {
			t.Errorf("got %v, want ErrSize", err)
		}
		if err := p.a.SendControl(make([]byte, MaxControl)); err != nil {
			t.Error(err)
		}
	})
}

// A NAT gives the peer another port: the path heals within a round trip of its next packet.
func TestRebind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, shape{delay: 20 * time.Millisecond}, shape{delay: 20 * time.Millisecond}, nil)
		defer p.close()
		p.up(t)
		got := make(chan string, 10)
		p.a.Receive(func(b []byte) { got <- string(b) })
		p.b.Receive(func(b []byte) { got <- string(b) })
		moved := netip.MustParseAddrPort("192.0.2.1:1001")
		p.net.mu.Lock()
		delete(p.net.muxes, addrA)
		p.net.muxes[moved] = p.ma
		p.net.mu.Unlock()
		p.ab.set(func(p *pipe) { p.from = moved })
		start := time.Now()
		p.a.Send(1, 0, []byte("x"))
		<-got
		if p.b.Remote() != addrA {
			t.Error("moved without asking")
		}
		time.Sleep(41 * time.Millisecond)
		if p.b.Remote() != moved {
			t.Errorf("remote %v after %v, want %v", p.b.Remote(), time.Since(start), moved)
		}
		p.b.Send(1, 0, []byte("y"))
		if g := <-got; g != "y" {
			t.Errorf("got %q", g)
		}
	})
}

// Somebody on the path copies packets and sends them first from an address of his own.
func TestForgedSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, shape{delay: 20 * time.Millisecond}, shape{delay: 20 * time.Millisecond}, nil)
		defer p.close()
		p.up(t)
		forged := netip.MustParseAddrPort("203.0.113.9:9")
		challenges := 0
		p.ba.set(func(q *pipe) {
			q.tap = func(_ []byte, _, to netip.AddrPort) {
				if to == forged {
					challenges++
				}
			}
		})
		p.ab.set(func(q *pipe) {
			q.tap = func(b []byte, _, to netip.AddrPort) {
				q.delay = 0
				q.flyLocked(append([]byte(nil), b...), forged, to, time.Now())
				q.delay = 20 * time.Millisecond
			}
		})
		for range 200 {
			p.a.Send(1, 0, []byte("x"))
			time.Sleep(10 * time.Millisecond)
			if p.b.Remote() != addrA {
				t.Fatalf("moved to %v", p.b.Remote())
			}
		}
		if challenges == 0 || challenges > 30 {
			t.Errorf("%d packets to an address that never answered", challenges)
		}
	})
}

func TestTamperAndReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, shape{}, shape{}, nil)
		defer p.close()
		p.up(t)
		got := make(chan string, 10)
		p.b.Receive(func(b []byte) { got <- string(b) })
		var whole []byte
		p.ab.set(func(q *pipe) {
			q.tap = func(b []byte, _, _ netip.AddrPort) {
				if packetType(b) == typeData {
					whole = append([]byte(nil), b...)
					q.down = true
				}
			}
		})
		p.a.Send(1, 0, []byte("payload"))
		synctest.Wait()
		p.ab.set(func(q *pipe) { q.tap = nil })
		answers := func() int {
			synctest.Wait()
			n, _ := p.ba.counts()
			return n
		}
		before := answers()
		for i := range whole {
			for _, bit := range []byte{1, 0x80} {
				b := append([]byte(nil), whole...)
				b[i] ^= bit
				p.ab.inject(b, addrA, addrB)
			}
		}
		for i := range whole {
			p.ab.inject(whole[:i], addrA, addrB)
		}
		p.ab.inject(append(whole[:len(whole):len(whole)], 0), addrA, addrB)
		if n := answers(); n != before || len(got) > 0 {
			t.Errorf("%d answers and %d payloads from forged packets", n-before, len(got))
		}
		for range 3 {
			p.ab.inject(whole, addrA, addrB)
		}
		synctest.Wait()
		if len(got) != 1 || <-got != "payload" {
			t.Errorf("the packet itself came %d times, want once", len(got)+1)
		}
		if s := p.b.Stats(); s.Replayed < 2 || s.Rejected == 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestRatchet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lossy := shape{delay: 10 * time.Millisecond, jitter: 10 * time.Millisecond, loss: 0.1}
		p := newPair(t, lossy, lossy, nil)
		defer p.close()
		p.a.mu.Lock()
		p.a.seal.packets = 50
		p.a.mu.Unlock()
		p.up(t)
		var mu sync.Mutex
		got := 0
		p.b.Receive(func([]byte) { mu.Lock(); got++; mu.Unlock() })
		epochs := make(map[byte]bool)
		p.ab.set(func(q *pipe) {
			q.tap = func(b []byte, _, _ netip.AddrPort) { epochs[packetEpoch(b)] = true }
		})
		const n = 5000
		for range n {
			p.a.Send(1, 0, []byte("x"))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		mu.Lock()
		if got < n*85/100 {
			t.Errorf("%d of %d packets through a loss of 10%%", got, n)
		}
		mu.Unlock()
		if s := p.b.Stats(); s.Rejected > 0 || len(epochs) != 4 {
			t.Errorf("%d rejected, %d epochs seen", s.Rejected, len(epochs))
		}
		time.Sleep(oldEpochFor)
		p.b.rmu.Lock()
		if p.b.opener.prev.aead != nil || p.b.opener.prev.secret != [32]byte{} {
			t.Error("the last epoch's key is kept")
		}
		p.b.rmu.Unlock()

		p.a.mu.Lock()
		p.a.seal.packets = rekeyPackets
		first := p.a.seal.first
		p.a.mu.Unlock()
		time.Sleep(11 * time.Minute) // keepalives are enough to go on by time
		p.a.mu.Lock()
		if p.a.seal.first == first {
			t.Error("no new epoch after ten minutes")
		}
		p.a.mu.Unlock()
		if p.b.Err() != nil || p.b.Stats().Rejected > 0 {
			t.Error("the peer lost track")
		}
	})
}

func TestMux(t *testing.T) {
	m := NewMux()
	i, err := m.Reserve()
	if err != nil || i == 0 || i > indexMask {
		t.Fatalf("Reserve: %#x, %v", i, err)
	}
	good := Config{Socket: &pipe{}, LocalIndex: i, RemoteIndex: 1}
	for name, change := range map[string]func(*Config){
		"no socket":    func(c *Config) { c.Socket = nil },
		"not reserved": func(c *Config) { c.LocalIndex = i ^ 1 },
		"remote 0":     func(c *Config) { c.RemoteIndex = 0 },
		"remote large": func(c *Config) { c.RemoteIndex = 1 << 24 },
	} {
		c := good
		change(&c)
		if _, err := m.Open(c); !errors.Is(err, ErrIndex) {
			t.Errorf("%s: %v, want ErrIndex", name, err)
		}
	}
	l, err := m.Open(good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Open(good); !errors.Is(err, ErrIndex) {
		t.Errorf("in use: %v, want ErrIndex", err)
	}
	m.Release(i) // of a link: nothing happens
	if _, err := m.Open(good); !errors.Is(err, ErrIndex) {
		t.Errorf("released while in use: %v, want ErrIndex", err)
	}
	l.Close("")
	if len(m.links) != 0 {
		t.Error("Close keeps the index")
	}
	m.Deliver(make([]byte, 100), 0, addrA)
	m.Deliver(nil, 10, addrA)
}
