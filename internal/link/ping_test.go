// In package link: this file uses the network in memory of sim_test.go.

package link

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, shape{delay: 5 * time.Millisecond}, shape{delay: 5 * time.Millisecond}, nil)
		defer p.close()
		if _, err := p.a.Ping(t.Context()); err == nil {
			t.Error("Ping before Use succeeds")
		}
		if _, err := p.a.Probe(t.Context(), addrB); err != nil {
			t.Fatal(err)
		}
		p.a.Use(addrB)
		if rtt, err := p.a.Ping(t.Context()); err != nil || rtt != 10*time.Millisecond {
			t.Errorf("Ping: %v, %v, want 10ms", rtt, err)
		}
		p.ab.set(func(p *pipe) { p.down = true })
		before, _ := p.ab.counts()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := p.a.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Ping into the void: %v, want the cause", err)
		}
		if after, _ := p.ab.counts(); after != before+1 {
			t.Errorf("%d packets in 500 ms, want the one PING", after-before)
		}
	})
}
