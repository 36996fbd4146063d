package link

import (
	"bytes"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/testtier"
)

// TestNarrowPath: a path that carries no packet of the usual size carries payloads and control messages that were
// cut for it.
func TestNarrowPath(t *testing.T) {
	for i, mtu := range []int{1096, narrowPacket, 1199, 900, 600} {
		if i > 0 && !testtier.IsLong() {
			break
		}
		for _, loss := range []float64{0, 0.02} {
			synctest.Test(t, func(t *testing.T) {
				s := shape{rate: 12.5e6, queue: 1 << 20, delay: 20 * time.Millisecond, mtu: mtu, loss: loss}
				var mu sync.Mutex
				var messages [][]byte
				p := newPair(t, s, s, func(a, b *Config) {
					dontFragment(a, b)
					b.OnControl = func(m []byte, _ netip.AddrPort) {
						mu.Lock()
						defer mu.Unlock()
						messages = append(messages, bytes.Clone(m))
					}
				})
				defer p.close()
				p.up(t)
				co := newCopier(p.b)
				want := payloadOf(messageBytes, 3)
				if err := p.a.SendControl(want); err != nil {
					t.Fatal(err)
				}
				n := co.run(p.a, 7, true, func() int { return mtuBytes }, 6*time.Second) // larger than the path carries
				time.Sleep(2 * time.Second)
				co.mu.Lock()
				defer co.mu.Unlock()
				if len(co.came) != int(n) || n < 1000 || co.bad > 0 || co.stall > 3*time.Second {
					t.Errorf("%d bytes, loss %v: %d of %d payloads came, %d spoilt, none for %v", mtu, loss, len(co.came), n, co.bad, co.stall)
				}
				mu.Lock()
				defer mu.Unlock()
				if len(messages) != 1 || !bytes.Equal(messages[0], want) {
					t.Errorf("%d bytes, loss %v: %d control messages came", mtu, loss, len(messages))
				}
				if got := p.a.Stats().MTU; got > mtu {
					t.Errorf("packets of %d bytes on a path of %d", got, mtu)
				}
			})
		}
	}
}
