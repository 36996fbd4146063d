package simnet

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestFall: where the rate falls to a fiftieth beside a bulk copy, an echo is quick again within a second, for what the
// copy lost waits for the copy's turn; and when the rate is back, so is the copy.
func TestFall(t *testing.T) {
	const (
		most  = 500 * time.Millisecond
		share = 0.8
	)
	for seed := range uint64(2) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conf := Config{Rate: 100e6 / 8, Delay: 20 * time.Millisecond, Queue: 1 << 20}
				w := newWorld(t, conf, conf, seed)
				defer w.close()
				w.copy(t)
				e := w.echo(t, 20*time.Millisecond, seed)
				time.Sleep(4 * time.Second)
				w.up.Change(func(c *Config) { c.Rate, c.Queue = 2e6/8, 100_000 })
				time.Sleep(time.Second)
				e.take()
				time.Sleep(8 * time.Second)
				p50, p99 := e.take()
				w.up.Change(func(c *Config) { c.Rate, c.Queue = conf.Rate, conf.Queue })
				time.Sleep(2 * time.Second)
				before := w.arrivals.sum()
				time.Sleep(3 * time.Second)
				rate := float64(w.arrivals.sum()-before) / 3
				t.Logf("echo %v, p99 %v; then %.1f Mbit/s", p50, p99, rate*8/1e6)
				if p99 > most {
					t.Errorf("an echo takes %v, want %v", p99, most)
				}
				if least := share * conf.Rate * headerShare; rate < least {
					t.Errorf("%.1f Mbit/s after the fall, want %.1f", rate*8/1e6, least*8/1e6)
				}
			})
		})
	}
}
