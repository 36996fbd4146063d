// In package reliable: this file drives one conversation by hand, without a link.

package reliable

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// An outage is a link over which nothing comes through yet. It keeps one packet of each key, the first.
type outage struct {
	*recorder
	kept map[uint32][]byte
}

func (o *outage) Send(flow, key uint32, p []byte) bool {
	if _, double := o.kept[key]; !double {
		o.kept[key] = bytes.Clone(p)
	}
	return true
}

func (o *outage) Pending(uint32) int { return len(o.kept) }

// What a link has kept in an outage is all that was written, however late this side looks for what to send again:
// kcp's timeouts have grown by then, and nobody is to wait for them.
func TestOutageKeepsAll(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			l := &outage{&recorder{rtt: time.Millisecond, window: 1 << 20}, make(map[uint32][]byte)}
			c, _ := newReceiver(l)
			defer c.close()
			peer, got := newReceiver(&recorder{rtt: time.Millisecond})
			defer peer.close()
			rng := rand.New(rand.NewPCG(seed, 0))
			var want []byte
			looked := time.Now()
			for began := time.Now(); time.Since(began) < time.Minute; {
				time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
				if key := []byte{byte(len(want))}; c.write(key) == 1 {
					want = append(want, key...)
				}
				if time.Since(looked) > time.Duration(rng.IntN(500))*time.Millisecond {
					looked = time.Now()
					c.look(looked)
				}
			}
			for _, p := range l.kept {
				peer.deliver(p)
			}
			if len(want) < 100 || !bytes.Equal(*got, want) {
				t.Errorf("seed %d: the link has %d bytes of %d", seed, len(*got), len(want))
			}
		})
	}
}
