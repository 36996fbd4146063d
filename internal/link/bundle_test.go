// In package link: this file reads single packets, whose form has no exported name.

package link

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func bundleOf(payloads ...string) []byte {
	var b []byte
	for _, p := range payloads {
		b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
		b = append(b, p...)
	}
	return b
}

func TestReceiveBundle(t *testing.T) {
	a, b := directPair(t)
	defer a.Close("")
	defer b.Close("")
	for _, test := range []struct {
		name  string
		plain []byte
		want  []string
	}{
		{"two", bundleOf("a", "bc"), []string{"a", "bc"}},
		{"three", bundleOf("a", "bc", "def"), []string{"a", "bc", "def"}},
		{"one", bundleOf("alone"), nil},
		{"an empty one", bundleOf("a", "", "b"), nil},
		{"cut in a payload", bundleOf("a", "bc")[:6], nil},
		{"cut in a size", bundleOf("a", "bc")[:4], nil},
		{"more than there is", append(bundleOf("a"), 0xff, 0xff, 'b'), nil},
		{"something behind", append(bundleOf("a", "b"), 0), nil},
	} {
		var got []string
		b.Receive(func(p []byte) {
			got = append(got, string(p))
			_ = append(p, "scribble"...) // what follows is another payload's
		})
		b.receiveBundle(test.plain)
		if fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func FuzzBundle(f *testing.F) {
	f.Add(bundleOf("a", "bc"))
	f.Add(bundleOf("a", ""))
	f.Add([]byte{0, 5, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		for rest := b; len(rest) > 0; {
			p, r, ok := nextPayload(rest)
			if !ok {
				return
			}
			again = append(binary.BigEndian.AppendUint16(again, uint16(len(p))), p...)
			rest = r
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

// Small payloads of many flows that are there together share packets, in the order in which they would
// have left, and each is repaired until it came, also where packets are lost, reordered and doubled.
func TestBundles(t *testing.T) {
	for _, test := range []struct {
		name string
		loss float64
		most float64 // packets for each payload
	}{{"clean", 0, 0.15}, {"10 %", 0.1, 0.5}, {"30 %", 0.3, 1.5}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := shape{rate: 10e6 / 8, queue: 100_000, delay: 20 * time.Millisecond, jitter: 5 * time.Millisecond, loss: test.loss, double: test.loss / 5}
				p := newPair(t, s, s, nil)
				defer p.close()
				p.up(t)
				const flows, rounds = 100, 30
				var mu sync.Mutex
				seen := make(map[string]bool)
				p.b.Receive(func(b []byte) { mu.Lock(); seen[string(b)] = true; mu.Unlock() })
				p.ab.set(func(q *pipe) {
					q.tap = func(b []byte, _, _ netip.AddrPort) {
						if packetType(b) == typeBundle && len(b) > leastPacket {
							t.Errorf("a bundle of %d bytes", len(b))
						}
					}
				})
				before, _ := p.ab.counts()
				want := make(map[string]bool)
				for round := range rounds {
					for flow := range uint32(flows) {
						b := fmt.Appendf(nil, "%d of %d, %0*d", round, flow, rand.IntN(60), 0)
						want[string(b)] = true
						if !p.a.Send(flow+1, uint32(round)+1, b) {
							t.Fatal("no room")
						}
					}
					time.Sleep(40 * time.Millisecond)
				}
				idleRepairs(t, p.a)
				after, _ := p.ab.counts()
				mu.Lock()
				defer mu.Unlock()
				for b := range want {
					if !seen[b] {
						t.Fatalf("%q did not come: %d of %d did", b, len(seen), len(want))
					}
				}
				if len(seen) != len(want) {
					t.Errorf("%d payloads came, %d were sent", len(seen), len(want))
				}
				if n := float64(after-before) / float64(len(want)); n > test.most {
					t.Errorf("%.2f packets for each payload, want %.2f", n, test.most)
				}
			})
		})
	}
}
