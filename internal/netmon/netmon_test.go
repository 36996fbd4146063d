package netmon

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func monitor(t *testing.T) (network *atomic.Pointer[string], hints chan struct{}, events chan Event) {
	network, hints, events, _ = monitored(t)
	return network, hints, events
}

// monitored runs a Monitor on a network and a machine that the test describes, in simulated time.
func monitored(t *testing.T) (network *atomic.Pointer[string], hints chan struct{}, events chan Event, c *clocks) {
	c = &clocks{began: time.Now()}
	network = new(atomic.Pointer[string])
	first := "first"
	network.Store(&first)
	hints, events = make(chan struct{}, 1), make(chan Event, 16)
	m := &Monitor{log: slog.New(slog.DiscardHandler), tell: func(e Event) { events <- e }}
	ctx, cancel := context.WithCancel(t.Context())
	m.cancel = cancel
	m.wg.Go(func() { m.run(ctx, hints, func() string { return *network.Load() }, c.read) })
	t.Cleanup(func() { m.Close() })
	synctest.Wait()
	return network, hints, events, c
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

// clocks are those of a machine in a simulation: all go on with simulated time, and what happens to the machine is
// added to some of them.
type clocks struct {
	began time.Time
	boot  atomic.Int64 // beside the time that passed
	wall  atomic.Int64
}

func (c *clocks) read() reading {
	steady := time.Since(c.began)
	return reading{steady, steady + time.Duration(c.boot.Load()), steady + time.Duration(c.wall.Load())}
}

func TestJump(t *testing.T) {
	for _, c := range []struct {
		name       string
		boot, wall time.Duration
		resumed    bool
	}{
		{"time goes on", 0, 0, false},
		{"slept", time.Hour, time.Hour, true},
		{"slept for a short while", 3 * time.Second, 3 * time.Second, false},
		{"slept, and the time of day was set back", time.Hour, -time.Minute, true},
		{"slept, as a machine without such a clock knows it", 0, time.Hour, true},
		{"set forward a little", 0, 3 * time.Second, false},
		{"set back", 0, -time.Hour, false},
		{"set back a day, as over a wrong clock", 0, -24 * time.Hour, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, _, events, clocks := monitored(t)
				time.Sleep(time.Minute + clockEvery/2)
				clocks.boot.Add(int64(c.boot))
				clocks.wall.Add(int64(c.wall))
				time.Sleep(clockEvery)
				want := 0
				if c.resumed {
					want = 1
				}
				if len(events) != want {
					t.Fatalf("told %d times, want %d", len(events), want)
				}
				if c.resumed {
					if e := <-events; e != Resumed {
						t.Errorf("told of %v, want %v", e, Resumed)
					}
				}
				time.Sleep(time.Hour)
				if len(events) > 0 {
					t.Errorf("told of %v later", <-events)
				}
			})
		})
	}
}

func TestClock(t *testing.T) {
	for _, c := range []struct {
		name               string
		steady, boot, wall time.Duration
		want               time.Duration
	}{
		{"on time", clockEvery, clockEvery, clockEvery, 0},
		{"busy machine", clockEvery + 3*time.Second, clockEvery + 3*time.Second, clockEvery + 3*time.Second, 0},
		{"stopped for two minutes", clockEvery + 2*time.Minute, clockEvery + 2*time.Minute, clockEvery + 2*time.Minute, 2 * time.Minute},
		{"slept for an hour", clockEvery, clockEvery + time.Hour, clockEvery + time.Hour, time.Hour},
		{"slept for an hour, nobody knows how long", clockEvery, 0, clockEvery + time.Hour, time.Hour},
		{"stopped, and slept then", clockEvery + time.Minute, clockEvery + time.Hour, clockEvery + time.Hour, time.Hour},
		{"stopped, and set back", clockEvery + time.Minute, clockEvery + time.Minute, -time.Hour, time.Minute},
		{"set back", clockEvery, clockEvery, -time.Hour, 0},
		{"set forward", clockEvery, clockEvery, time.Hour + clockEvery, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := clock{reading{time.Hour, 2 * time.Hour, 3 * time.Hour}}
			if got := k.tick(reading{time.Hour + c.steady, 2*time.Hour + c.boot, 3*time.Hour + c.wall}); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestReadClocks: the real clocks go on. The time of day may be set meanwhile.
func TestReadClocks(t *testing.T) {
	first := readClocks()
	time.Sleep(20 * time.Millisecond)
	second := readClocks()
	if d := second.steady - first.steady; d < 20*time.Millisecond || d > 5*time.Second {
		t.Errorf("steady clock went on by %v", d)
	}
	if second.wall == 0 {
		t.Error("no time of day")
	}
	if d := second.boot - first.boot; first.boot != 0 && (d < 20*time.Millisecond || d > 5*time.Second) {
		t.Errorf("boot clock went on by %v", d)
	}
}
