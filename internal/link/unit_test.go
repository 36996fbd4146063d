// In package link: this file tests what has no exported name: seals, records, congestion control, replay
// windows.

package link

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestReplayWindow(t *testing.T) {
	type step struct {
		c     uint64
		fresh bool
	}
	for name, steps := range map[string][]step{
		"in order":    {{0, true}, {1, true}, {2, true}, {1, false}, {0, false}},
		"edge":        {{replayPackets + 9, true}, {10, true}, {10, false}, {9, false}, {0, false}},
		"edge slides": {{replayPackets, true}, {1, true}, {0, false}, {replayPackets + 1, true}, {1, false}, {2, true}},
		"far jump":    {{5, true}, {1 << 40, true}, {5, false}, {1<<40 - replayPackets, false}, {1<<40 - replayPackets + 1, true}, {1<<40 - 1, true}, {1 << 40, false}},
		"ring length": {{7, true}, {7 + replayWords*64, true}, {7 + replayWords*64 - 1, true}, {7, false}},
		"last":        {{math.MaxUint64, false}, {math.MaxUint64 - 1, true}, {math.MaxUint64 - 1, false}},
		"window at 0": {{replayPackets - 1, true}, {0, true}, {0, false}},
	} {
		t.Run(name, func(t *testing.T) {
			var w replayWindow
			for i, s := range steps {
				got := w.fresh(s.c)
				if got != s.fresh {
					t.Fatalf("step %d, counter %d: fresh %v, want %v", i, s.c, got, s.fresh)
				}
				if got {
					w.accept(s.c)
				}
			}
		})
	}
}

// Against a model that remembers everything.
func TestReplayWindowRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var w replayWindow
	seen := make(map[uint64]bool)
	var highest uint64
	base := uint64(replayPackets)
	for i := range 300000 {
		c := base + uint64(r.IntN(3*replayPackets)) - replayPackets
		if i%3 == 0 {
			base += uint64(r.IntN(5))
		}
		if i%50000 == 0 {
			base += 100000
		}
		want := !seen[c] && (c > highest || highest-c < replayPackets)
		if got := w.fresh(c); got != want {
			t.Fatalf("counter %d, highest %d: fresh %v, want %v", c, highest, got, want)
		}
		if want {
			if got := w.accept(c); got != (c > highest) {
				t.Fatalf("counter %d, highest %d: accept says highest %v", c, highest, got)
			}
			seen[c] = true
			highest = max(highest, c)
		}
	}
}

func TestSeal(t *testing.T) {
	for _, aes := range []bool{true, false} {
		s := sealer{aes: aes, key: newEpochKey(key(9), aes)}
		o := newOpener(key(9), aes)
		packet := func(text string) []byte {
			p := make([]byte, overheadBytes+len(text))
			s.counter++
			putHeader(p, typeData, s.epoch, 77, s.counter)
			copy(p[headerBytes:], text)
			s.seal(p)
			if bytes.Contains(p, []byte(text)) {
				t.Fatal("not encrypted")
			}
			return p
		}
		want := func(p []byte, now time.Duration, ok bool) {
			t.Helper()
			plain, _, got := o.open(bytes.Clone(p), now)
			if got != ok || ok && string(plain) != "text" {
				t.Errorf("aes %v: open: %q, %v, want %v", aes, plain, got, ok)
			}
		}
		late, later := packet("text"), packet("text")
		s.ratchet(0)
		want(packet("text"), 0, true) // the peer follows
		want(late, oldEpochFor-1, true)
		want(later, oldEpochFor, false)
		if s.key.secret == key(9) {
			t.Error("the key is still the old one")
		}
		s.ratchet(0)
		s.ratchet(0)
		want(packet("text"), 0, false) // two epochs ahead: never happens to an honest peer
		for range 3 {
			s.ratchet(0)
		}
		want(packet("text"), 0, false) // the right bits, the wrong key
	}
}

func TestRatchetWaitsForPeer(t *testing.T) {
	s := sealer{packets: 10, counter: 100, first: 50}
	for _, test := range []struct {
		name      string
		now       time.Duration
		confirmed uint64
		counter   uint64
		want      bool
	}{
		{"by count", 0, 51, 100, true},
		{"not confirmed", 0, 50, 100, false},
		{"early", time.Minute, 51, 55, false},
		{"by time", rekeyAfter, 51, 55, true},
		{"by time, not confirmed", rekeyAfter, 50, 55, false},
		{"too many", 0, 0, 50 + maxEpoch, true},
	} {
		s.counter = test.counter
		if got := s.due(test.now, test.confirmed); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// A directSocket hands packets to the peer's Mux on the sender's goroutine.
type directSocket struct {
	to   *Mux
	from netip.AddrPort
}

func (s *directSocket) Send(b []byte, segment int, _ netip.AddrPort) error {
	s.to.Deliver(b, segment, s.from)
	return nil
}

func directPair(t testing.TB) (a, b *Link) {
	ma, mb := NewMux(), NewMux()
	ia, _ := ma.Reserve()
	ib, _ := mb.Reserve()
	a, err := ma.Open(Config{Socket: &directSocket{mb, addrA}, LocalIndex: ia, RemoteIndex: ib, SendKey: key(1), RecvKey: key(2), AES: true})
	if err != nil {
		t.Fatal(err)
	}
	b, err = mb.Open(Config{Socket: &directSocket{ma, addrB}, LocalIndex: ib, RemoteIndex: ia, SendKey: key(2), RecvKey: key(1), AES: true})
	if err != nil {
		t.Fatal(err)
	}
	for l, to := range map[*Link]netip.AddrPort{a: addrB, b: addrA} {
		if _, err := l.Probe(t.Context(), to); err != nil {
			t.Fatal(err)
		}
		l.Use(to)
	}
	return a, b
}

func TestAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops buffers under the race detector")
	}
	for _, size := range []int{mtuBytes, mostMTU} { // whole and in fragments
		t.Run(fmt.Sprint(size), func(t *testing.T) { testAllocs(t, size) })
	}
}

func testAllocs(t *testing.T, size int) {
	a, b := directPair(t)
	defer b.Close("")
	defer a.Close("")
	got := make(chan struct{}, 1000)
	b.Receive(func([]byte) { got <- struct{}{} })
	p := make([]byte, size)
	const packets = 100
	key := uint32(0)
	run := func() {
		for i := range packets {
			key += uint32(i & 1)
			a.Send(uint32(i%3), key*uint32(i&1), p)
		}
		for range packets {
			<-got
		}
	}
	for range 200 {
		run()
	}
	if n := testing.AllocsPerRun(100, run); n > packets/10 { // the race detector makes pools forget
		t.Errorf("%v allocations for %d packets, want none", n, packets)
	}
}

// TestBatch: as many packets fit as one call takes, and a last one that becomes two.
func TestBatch(t *testing.T) {
	for _, c := range []struct{ size, want int }{{100, 64}, {packetBytes, 52}, {1452, 44}, {mostPacket, 44}} {
		var b batch
		for !b.full() {
			b.end[b.n] = b.start(b.n) + c.size
			b.n++
		}
		if b.n != c.want || b.end[b.n-1] > batchBytes {
			t.Errorf("%d packets of %d bytes, want %d; %d in all, at most %d", b.n, c.size, c.want, b.end[b.n-1], batchBytes)
		}
	}
}

func FuzzDeliver(f *testing.F) {
	const index = 0x123456
	head := func(typ, epoch byte, counter uint64) []byte {
		b := make([]byte, 64)
		putHeader(b, typ, epoch, index, counter)
		return b
	}
	f.Add(head(typeData, 0, 1), 64)
	f.Add(head(typeClose, 1, 1<<40), 30)
	f.Add(append(head(typeControl, 3, 0), head(typeControl, 2, math.MaxUint64)...), 64)
	f.Fuzz(func(t *testing.T, b []byte, segment int) {
		m := NewMux()
		m.links[index] = nil
		sent := &countSocket{}
		l, err := m.Open(Config{Socket: sent, LocalIndex: index, RemoteIndex: 1, SendKey: key(1), RecvKey: key(2), AES: true})
		if err != nil {
			t.Fatal(err)
		}
		l.Receive(func([]byte) { t.Error("a forged payload") })
		m.Deliver(bytes.Clone(b), segment, addrB)
		if s := l.Stats(); s.ReceivedPackets != 0 || l.Err() != nil {
			t.Errorf("garbage accepted: %+v, %v", s, l.Err())
		}
		l.Close("")
		if sent.n.n != 0 {
			t.Error("garbage answered")
		}

		// What an authenticated peer sends may be any bytes: nothing may panic, and the link lives.
		if len(b) > mtuBytes {
			b = b[:mtuBytes]
		}
		m.links[index] = nil
		if l, err = m.Open(Config{Socket: sent, LocalIndex: index, RemoteIndex: 1, SendKey: key(1), RecvKey: key(2), AES: true}); err != nil {
			t.Fatal(err)
		}
		defer l.Close("")
		l.Use(addrB)
		s := sealer{aes: true, key: newEpochKey(key(2), true)}
		for _, typ := range []byte{typeData, typeControl, typeFragment, typeBundle, 15, typeClose} {
			p := make([]byte, overheadBytes+len(b))
			s.counter++
			putHeader(p, typ, 0, index, s.counter)
			copy(p[headerBytes:], b)
			s.seal(p)
			m.Deliver(p, len(p), addrB)
		}
		if s := l.Stats(); s.ReceivedPackets != 6 || l.Err() == nil {
			t.Errorf("%+v, %v, want six packets and a close", s, l.Err())
		}
	})
}

type countSocket struct{ n counted } // packets sent to nobody

type counted struct {
	mu sync.Mutex
	n  int
}

func (s *countSocket) Send([]byte, int, netip.AddrPort) error {
	s.n.mu.Lock()
	s.n.n++
	s.n.mu.Unlock()
	return nil
}

// Nothing is kept, answered or logged for packets of nobody.
func TestGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, shape{}, shape{}, nil)
		defer p.close()
		p.up(t)
		r := rand.New(rand.NewPCG(5, 6))
		b := make([]byte, 1300)
		before := p.b.Stats().SentPackets
		for range 5000 {
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			b[0] = 0x80 | b[0]&0x3f
			if r.IntN(2) == 0 {
				putHeader(b, b[0]>>2&15, b[0], p.b.cfg.LocalIndex, r.Uint64()>>r.IntN(64))
			}
			p.mb.Deliver(b[:r.IntN(len(b)+1)], 1+r.IntN(1300), addrA)
		}
		if n := testing.AllocsPerRun(100, func() { p.mb.Deliver(b, 1228, addrA) }); n > 0 {
			t.Errorf("%v allocations for garbage", n)
		}
		synctest.Wait()
		if s := p.b.Stats(); s.SentPackets != before || p.b.Remote() != addrA || p.b.Err() != nil {
			t.Errorf("garbage had an effect: %+v", s)
		}
	})
}
