// In package link: this file makes sealed packets of chosen epochs, and looks at which keys are kept.

package link

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/testtier"
)

// sealed returns packets of a sealer.
func sealed(s *sealer, text string) []byte {
	p := make([]byte, overheadBytes+len(text))
	s.counter++
	putHeader(p, typeData, s.epoch, 77, s.counter)
	copy(p[headerBytes:], text)
	s.seal(p)
	return p
}

func TestFreshKey(t *testing.T) {
	for _, aes := range []bool{true, false} {
		for name, ratchets := range map[string]int{"at once": 0, "after an epoch": 1, "after five": 5} {
			s := sealer{aes: aes, key: newEpochKey(key(9), aes)}
			o := newOpener(key(9), aes)
			want := func(what string, p []byte, now time.Duration, ok bool) {
				t.Helper()
				plain, _, got := o.open(bytes.Clone(p), now)
				if got != ok || ok && string(plain) != "text" {
					t.Errorf("aes %v, %s: %s: %q, %v, want %v", aes, name, what, plain, got, ok)
				}
			}
			o.rekey(key(5)) // the receiver first
			for range ratchets {
				s.ratchet(0)
				want("the ratchet goes on", sealed(&s, "text"), 0, true)
			}
			late, forgery := sealed(&s, "text"), sealed(&s, "text")
			forgery[20] ^= 1
			old := s
			s.fresh, s.free = newEpochKey(key(5), aes), true
			s.ratchet(0)
			if s.fresh.aead != nil || s.free {
				t.Error("the fresh key is used twice")
			}
			first := sealed(&s, "text")
			forged := bytes.Clone(first)
			forged[20] ^= 1
			want("a forgery of the first", forged, 0, false)
			want("the first", first, 0, true)
			if o.fresh.aead != nil || o.scratch != nil {
				t.Error("the fresh key is kept")
			}
			want("one under way", late, time.Second, true)
			want("a forgery of the last", forgery, time.Second, false)

			// What the old keys make is worth nothing: not in their epoch, nor in later ones.
			old.counter = s.counter + 10
			want("of the old epoch, later", sealed(&old, "text"), time.Second, false)
			for range 5 {
				old.ratchet(0)
				want("of an epoch that follows the old one", sealed(&old, "text"), time.Second, false)
			}
			s.counter += 100
			want("the second", sealed(&s, "text"), time.Second, true)
			for range 5 {
				s.ratchet(0)
				want("the ratchet after it", sealed(&s, "text"), time.Second, true)
			}
		}
	}
}

// A keying is run over two links as package peer does: key 1 of a number from a to b, key 2 back.
type keying struct {
	a, b   *Link
	mu     sync.Mutex
	number uint32
	turned int // sides that have begun to open with the fresh key
	done   chan struct{}
}

func secretOf(number uint32, direction byte) [32]byte {
	return sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, number), direction))
}

// onControl of b takes the leader's message, of a the follower's.
func (k *keying) onControl(follower bool) func([]byte, netip.AddrPort) {
	return func(b []byte, _ netip.AddrPort) {
		n := binary.BigEndian.Uint32(b)
		if !follower {
			if err := k.a.Rekey(secretOf(n, 1), secretOf(n, 2), true); err != nil {
				panic(err)
			}
			return
		}
		if err := k.b.Rekey(secretOf(n, 2), secretOf(n, 1), false); err != nil {
			panic(err)
		}
		if err := k.b.SendControl(b); err != nil {
			panic(err)
		}
	}
}

func (k *keying) turn() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.turned++; k.turned == 2 {
		k.turned = 0
		k.done <- struct{}{}
	}
}

func (k *keying) run(t *testing.T) {
	k.number++
	if err := k.a.SendControl(binary.BigEndian.AppendUint32(nil, k.number)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-k.done:
	case <-time.After(time.Minute):
		t.Fatalf("rekeying %d does not end", k.number)
	}
}

func keyed(t *testing.T, ab, ba shape) (*pair, *keying) {
	k := &keying{done: make(chan struct{}, 1)}
	p := newPair(t, ab, ba, func(a, b *Config) {
		a.OnControl, b.OnControl = k.onControl(false), k.onControl(true)
		a.OnRekey, b.OnRekey = k.turn, k.turn
	})
	k.a, k.b = p.a, p.b
	return p, k
}

// Many rekeyings while both sides send, over paths of all sorts: everything arrives, and of what is not damaged
// nothing fails to open.
func TestRekey(t *testing.T) {
	t.Parallel()
	times := 25
	if testtier.IsLong() {
		times = 100
	}
	for name, s := range map[string]shape{
		"clean":     {delay: 20 * time.Millisecond, rate: 4e6, queue: 100_000},
		"lossy":     {delay: 20 * time.Millisecond, jitter: 15 * time.Millisecond, loss: 0.2, double: 0.1},
		"reordered": {delay: 5 * time.Millisecond, jitter: 200 * time.Millisecond, double: 0.3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, k := keyed(t, s, s)
				defer p.close()
				p.up(t)
				for _, l := range []*Link{p.a, p.b} {
					l.mu.Lock()
					l.seal.packets = 3000 // and the ratchet in between
					l.mu.Unlock()
				}
				var mu sync.Mutex
				got := [2]map[uint32]bool{{}, {}}
				for i, l := range []*Link{p.a, p.b} {
					l.Receive(func(b []byte) { mu.Lock(); got[i][binary.BigEndian.Uint32(b)] = true; mu.Unlock() })
				}
				var wg sync.WaitGroup
				stop := make(chan struct{})
				sent := [2]uint32{}
				for i, l := range []*Link{p.b, p.a} {
					wg.Go(func() {
						b := make([]byte, 800)
						for {
							for l.Pending(1) < 200 {
								n := sent[i] + 1
								binary.BigEndian.PutUint32(b, n)
								if !l.Send(1, n, b) {
									break
								}
								sent[i] = n
							}
							select {
							case <-time.After(time.Millisecond):
							case <-stop:
								return
							}
						}
					})
				}
				for range times {
					k.run(t)
					time.Sleep(50 * time.Millisecond)
				}
				close(stop)
				wg.Wait()
				for p.a.Pending(1)+p.b.Pending(1) > 0 {
					time.Sleep(10 * time.Millisecond)
				}
				mu.Lock()
				for i := range got {
					if len(got[i]) != int(sent[i]) || sent[i] < 1000 {
						t.Errorf("side %d got %d payloads of %d", i, len(got[i]), sent[i])
					}
				}
				mu.Unlock()
				for _, l := range []*Link{p.a, p.b} {
					if s := l.Stats(); s.Rejected > s.ReceivedPackets/200 {
						t.Errorf("%d packets of %d did not open", s.Rejected, s.ReceivedPackets)
					}
				}
				t.Logf("%d and %d payloads; rejected %d and %d", sent[0], sent[1], p.a.Stats().Rejected, p.b.Stats().Rejected)
			})
		})
	}
}

// An idle link is rekeyed within a few round trips, and a flow of packets has no pause over it.
func TestRekeyIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rtt = 100 * time.Millisecond
		s := shape{delay: rtt / 2}
		p, k := keyed(t, s, s)
		defer p.close()
		p.up(t)
		time.Sleep(2 * time.Minute)
		began := time.Now()
		k.run(t)
		if took := time.Since(began); took > 4*rtt {
			t.Errorf("rekeying took %v, want %v at most", took, 4*rtt)
		}
		var mu sync.Mutex
		last, longest := time.Now(), time.Duration(0)
		p.b.Receive(func([]byte) {
			mu.Lock()
			longest, last = max(longest, time.Since(last)), time.Now()
			mu.Unlock()
		})
		for i := range 2000 {
			if i == 1000 {
				if err := p.a.SendControl([]byte{0, 0, 0, 99}); err != nil {
					t.Fatal(err)
				}
			}
			if i == 0 {
				time.Sleep(rtt)
				mu.Lock()
				last = time.Now().Add(rtt)
				mu.Unlock()
			}
			p.a.Send(1, 0, []byte("tick"))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(rtt)
		<-k.done
		mu.Lock()
		defer mu.Unlock()
		if longest > 5*time.Millisecond {
			t.Errorf("the flow paused for %v", longest)
		}
		if s := p.b.Stats(); s.Rejected+s.Lost > 0 {
			t.Errorf("%d rejected, %d lost", s.Rejected, s.Lost)
		}
	})
}

// A path that is down for a minute in the middle of a rekeying only delays it.
func TestRekeyOverInterruption(t *testing.T) {
	for _, when := range []time.Duration{0, 30, 60, 90, 120, 150, 180, 240} {
		synctest.Test(t, func(t *testing.T) {
			s := shape{delay: 50 * time.Millisecond}
			p, k := keyed(t, s, s)
			defer p.close()
			p.up(t)
			down := func(v bool) {
				p.ab.set(func(q *pipe) { q.down = v })
				p.ba.set(func(q *pipe) { q.down = v })
			}
			time.AfterFunc(when*time.Millisecond, func() { down(true) })
			time.AfterFunc(when*time.Millisecond+45*time.Second, func() { down(false) })
			k.run(t)
			k.run(t)
			if s := p.b.Stats(); s.Rejected > 0 {
				t.Errorf("down after %d ms: %d rejected", when, s.Rejected)
			}
		})
	}
}

func TestRekeyErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, shape{}, shape{}, nil)
		defer p.close()
		p.up(t)
		if err := p.a.Rekey(key(7), key(8), false); err != nil {
			t.Fatal(err)
		}
		if err := p.a.Rekey(key(8), key(9), false); !errors.Is(err, ErrBusy) {
			t.Errorf("rekey twice: got %v, want %v", err, ErrBusy)
		}
		p.a.Close("")
		if err := p.a.Rekey(key(7), key(8), true); !errors.Is(err, ErrClosed) {
			t.Errorf("rekey a closed link: got %v, want %v", err, ErrClosed)
		}
		p.a.mu.Lock()
		defer p.a.mu.Unlock()
		if p.a.seal.fresh.aead != nil || p.a.opener.fresh.aead != nil || p.a.opener.cur.aead != nil {
			t.Error("keys are kept after the end")
		}
	})
}

func TestWrote(t *testing.T) {
	l := &Link{cfg: Config{RemoteIndex: 77}}
	l.seal.counter = 10_000
	head := func(typ byte, index uint32, counter uint64) []byte {
		b := make([]byte, headerBytes+5)
		putHeader(b, typ, 1, index, counter)
		return b
	}
	for name, test := range map[string]struct {
		head []byte
		want bool
	}{
		"the last":        {head(typeControl, 77, 10_000), true},
		"one before":      {head(typeData, 77, 9_000), true},
		"the header only": {head(typeData, 77, 9_000)[:headerBytes], true},
		"cut":             {head(typeData, 77, 9_000)[:headerBytes-1], false},
		"the next":        {head(typeData, 77, 10_001), false},
		"an old one":      {head(typeData, 77, 1_000), false},
		"none":            {head(typeData, 77, 0), false},
		"another's":       {head(typeData, 78, 10_000), false},
		"no packet":       {append([]byte{0}, head(typeData, 77, 10_000)[1:]...), false},
		"empty":           {nil, false},
	} {
		if got := l.Wrote(test.head); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
