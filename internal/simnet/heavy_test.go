package simnet

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/testtier"
)

// TestAfterHeavyLoss: heavy loss for a while does not interrupt the link, and five seconds after it a copy is as
// fast as it was before.
func TestAfterHeavyLoss(t *testing.T) {
	const (
		share   = 0.8
		seconds = 8
	)
	for _, c := range []struct {
		mbit float64
		rtt  time.Duration
		d    time.Duration
	}{
		{40, 20 * time.Millisecond, 8 * time.Second},
		{40, 20 * time.Millisecond, time.Minute},
		{100, 40 * time.Millisecond, 8 * time.Second},
		{5, 100 * time.Millisecond, 20 * time.Second},
	} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%.0f Mbit per s, %v, %v, seed %d", c.mbit, c.rtt, c.d, seed), func(t *testing.T) {
				if c.mbit != 5 || seed > 0 {
					testtier.Long(t)
				}
				synctest.Test(t, func(t *testing.T) {
					conf := Config{Rate: c.mbit * 1e6 / 8, Delay: c.rtt / 2}
					conf.Queue = max(64<<10, int(conf.Rate*c.rtt.Seconds()/2))
					w := newWorld(t, conf, conf, seed)
					defer w.close()
					w.copy(t)
					rate := func(d time.Duration) float64 {
						before := w.arrivals.sum()
						time.Sleep(d)
						return float64(w.arrivals.sum()-before) * 8 / 1e6 / d.Seconds()
					}
					time.Sleep(2 * time.Second)
					before := rate(2 * time.Second)
					loss := func(p float64) {
						w.up.Change(func(c *Config) { c.Loss = p })
						w.down.Change(func(c *Config) { c.Loss = p })
					}
					loss(0.3)
					lossy := rate(c.d)
					loss(0)
					var after [seconds]float64
					for i := range after {
						after[i] = rate(time.Second)
					}
					t.Logf("%.1f Mbit/s before, %.1f with loss, then each second %.1f", before, lossy, after)
					if got := after[5]; got < share*before {
						t.Errorf("%.1f Mbit/s in the sixth second after the loss, %.1f before", got, before)
					}
				})
			})
		}
	}
}
