package netmon

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// monitor runs a Monitor on a network that the test describes, in simulated time.
func monitor(t *testing.T) (network *atomic.Pointer[string], hints chan struct{}, events chan Event) {
	network = new(atomic.Pointer[string])
	first := "first"
	network.Store(&first)
	hints, events = make(chan struct{}, 1), make(chan Event, 16)
	m := &Monitor{log: slog.New(slog.DiscardHandler), tell: func(e Event) { events <- e }}
	ctx, cancel := context.WithCancel(t.Context())
	m.cancel = cancel
	m.wg.Go(func() { m.run(ctx, hints, func() string { return *network.Load() }) })
	t.Cleanup(func() { m.Close() })
	synctest.Wait()
	return network, hints, events
}

func TestHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, hints, events := monitor(t)
		hints <- struct{}{} // nothing changed
		time.Sleep(time.Second)
		began := time.Now()
		second := "second"
		network.Store(&second)
		for range 3 { // more is to come
			hints <- struct{}{}
			time.Sleep(quiet / 2)
		}
		if e := <-events; e != Changed || time.Since(began) != 2*quiet {
			t.Errorf("%v after %v, want %v after %v", e, time.Since(began), Changed, 2*quiet)
		}
		time.Sleep(time.Minute)
		if len(events) != 0 {
			t.Errorf("told of %v where nothing happened", <-events)
		}
	})
}

// A stream of hints is looked at all the same.
func TestHintsWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, hints, events := monitor(t)
		began := time.Now()
		second := "second"
		network.Store(&second)
		for len(events) == 0 {
			hints <- struct{}{}
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(began); took < quietMost || took > quietMost+quiet {
			t.Errorf("told after %v, want %v", took, quietMost)
		}
	})
}

func TestPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, _, events := monitor(t)
		began := time.Now()
		second := "second"
		network.Store(&second)
		if e := <-events; e != Changed || time.Since(began) != pollEvery {
			t.Errorf("%v after %v, want %v after %v", e, time.Since(began), Changed, pollEvery)
		}
	})
}

func TestClock(t *testing.T) {
	start := time.Now()
	for _, c := range []struct {
		name         string
		steady, wall time.Duration
		want         time.Duration
	}{
		{"on time", clockEvery, clockEvery, 0},
		{"busy machine", clockEvery + 3*time.Second, clockEvery + 3*time.Second, 0},
		{"stopped for two minutes", 2*time.Minute + clockEvery, 2*time.Minute + clockEvery, 2 * time.Minute},
		{"set back", clockEvery, -time.Hour, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newClock(start)
			now := start.Add(c.steady)
			if c.wall != c.steady {
				k.last = start.Round(0).Add(c.steady - c.wall) // both are then wall clocks
				now = start.Round(0).Add(c.steady)
			}
			if got := k.tick(now); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	k := newClock(start.Round(0)) // slept: the steady clock stood still, as a time without one does
	if got := k.tick(start.Round(0).Add(time.Hour + clockEvery)); got != time.Hour {
		t.Errorf("after an hour's sleep: got %v", got)
	}
}
