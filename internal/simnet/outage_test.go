package simnet

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/testtier"
)

// TestAfterOutage: soon after a path is there again so is the data, however long it was away: that of a copy, the
// answers that somebody waits for, and what was typed all the while. What takes its time is the question that finds
// the path, once a second from either side.
func TestAfterOutage(t *testing.T) {
	const (
		most   = 1200 * time.Millisecond
		enough = 512 << 10
		step   = 10 * time.Millisecond
	)
	for _, d := range []time.Duration{5 * time.Second, time.Minute, 9 * time.Minute} {
		for seed := range uint64(5) {
			t.Run(fmt.Sprintf("%v, seed %d", d, seed), func(t *testing.T) {
				if seed > 0 || d > time.Minute {
					testtier.Long(t)
				}
				synctest.Test(t, func(t *testing.T) {
					conf := Config{Rate: 100e6 / 8, Delay: 5 * time.Millisecond, Queue: 256 << 10}
					w := newWorld(t, conf, conf, seed)
					defer w.close()
					w.copy(t)
					e := w.echo(t, 50*time.Millisecond, seed)
					x := w.types(t, 100*time.Millisecond, seed)
					time.Sleep(2*time.Second + time.Duration(seed)*93*time.Millisecond)
					down := func(is bool) {
						w.up.Change(func(c *Config) { c.Down = is })
						w.down.Change(func(c *Config) { c.Down = is })
					}
					down(true)
					time.Sleep(d)
					e.take()
					down(false)
					began, before, keys := time.Now(), w.arrivals.sum(), x.typed.Load()
					var first, all, echoed, typed time.Duration
					for all == 0 || echoed == 0 || typed == 0 {
						time.Sleep(step)
						took := time.Since(began)
						n := w.arrivals.sum() - before
						if n > 0 && first == 0 {
							first = took
						}
						if n > enough && all == 0 {
							all = took
						}
						e.mu.Lock()
						if len(e.took) > 1 && echoed == 0 { // one was under way
							echoed = took
						}
						e.mu.Unlock()
						if x.echoed.Load() > keys && typed == 0 {
							typed = took
						}
						if took > 30*time.Second {
							t.Fatalf("first data after %v, half a megabyte %v, echo %v, keystrokes %v", first, all, echoed, typed)
						}
					}
					t.Logf("first data after %v, half a megabyte after %v, an echo after %v, all keystrokes after %v", first, all, echoed, typed)
					if last := max(all, echoed, typed); last > most {
						t.Errorf("back after %v, want %v", last, most)
					}
				})
			})
		}
	}
}
