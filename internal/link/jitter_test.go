// In package link: this file uses the network in memory of sim_test.go.

package link

import (
	"fmt"
	"testing"
	"time"

	"adit/internal/testtier"
)

// Jitter of up to half a round trip, which reorders packets, is no loss and no queue.
func TestJitter(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		mbit   float64
		rtt    time.Duration
		jitter float64 // of the round trip
		loss   float64
		share  float64
		stall  float64 // longest wait for the next payload, in round trips
	}{
		{100, 40 * time.Millisecond, 0.1, 0, 0.85, 3},
		{100, 40 * time.Millisecond, 0.5, 0, 0.75, 5},
		{100, 40 * time.Millisecond, 0.5, 0.01, 0.75, 8}, // some are lost twice
		{20, 40 * time.Millisecond, 0.5, 0, 0.75, 6},
		{10, 100 * time.Millisecond, 0.5, 0, 0.6, 5},
		{10, 100 * time.Millisecond, 0.1, 0, 0.85, 3},
		{50, 200 * time.Millisecond, 0.1, 0, 0.85, 3},
		{400, 4 * time.Millisecond, 0.5, 0, 0.85, 10},
	} {
		t.Run(fmt.Sprintf("%v Mbit per s, %v, %v, %v loss", test.mbit, test.rtt, test.jitter, test.loss), func(t *testing.T) {
			if test.mbit > 20 {
				testtier.Long(t)
			}
			trials(t, func(t *trial) {
				rate := test.mbit * 1e6 / 8
				s := shape{rate: rate, queue: max(int(rate*test.rtt.Seconds()), 30000), delay: test.rtt / 2, jitter: time.Duration(test.jitter * float64(test.rtt)), loss: test.loss}
				p := newPair(t.T, s, s, nil)
				defer p.close()
				c := &catcher{seen: make(map[uint32]int)}
				p.b.Receive(c.take)
				p.up(t.T)
				n := uint32(rate * max(10*time.Second, 100*test.rtt).Seconds() / mtuBytes)
				took := pourKeyed(t.T, p.a, c, n)
				got := mbit(int(n)*mtuBytes, took)
				st := p.a.Stats()
				stall, extra := c.result()
				_, dropped := p.ab.counts()
				t.Logf("%.1f Mbit/s, longest stall %v, %d dropped, %d payloads came again, resent %d, spurious %d", got, stall, dropped-p.ab.lost, extra, st.Resent, st.Spurious)
				if got < test.share*test.mbit {
					t.Errorf("%.1f Mbit/s, want %.1f at least", got, test.share*test.mbit)
				}
				if x := float64(extra) / float64(n); x > 0.015 {
					t.Errorf("%.1f %% of the payloads came again", 100*x)
				}
				if most := time.Duration(test.stall * float64(test.rtt)); stall > most {
					t.Errorf("waited %v for the next payload, want %v at most", stall, most)
				}
			})
		})
	}
}
