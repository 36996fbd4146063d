package portmap

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A router maps for an hour, or fails.
type router struct {
	began time.Time

	mu      sync.Mutex
	err     error
	added   []time.Duration // when
	removed int
}

func (*router) protocol() Protocol { return PCP }

func (r *router) add(_ context.Context, _, external int) (netip.AddrPort, time.Duration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.added = append(r.added, time.Since(r.began))
	return netip.AddrPortFrom(netip.MustParseAddr("20.0.0.1"), uint16(external)), time.Hour, r.err
}

func (r *router) remove(context.Context, int, int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed++
	return nil
}

func (r *router) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// TestKeep: a router that does not answer has until the end of the mapping's lifetime.
func TestKeep(t *testing.T) {
	keep := func(t *testing.T, r *router) (ended chan bool, cancel context.CancelFunc) {
		m := &Mapper{cfg: Config{Port: 4000}, log: slog.New(slog.DiscardHandler), found: func(Mapping) {}, tried: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		ended = make(chan bool, 1)
		r.began = time.Now()
		go func() { ended <- m.keep(ctx, r, new(Mapping)) }()
		synctest.Wait()
		return ended, cancel
	}
	for _, c := range []struct {
		name  string
		err   error         // of renewals
		until time.Duration // when they work again; 0 for never
		over  time.Duration // when it gives up; 0 for never
	}{
		{"answers", nil, 0, 0},
		{"silent for a while", os.ErrDeadlineExceeded, 45 * time.Minute, 0},
		{"silent", context.DeadlineExceeded, 0, time.Hour},
		{"refuses", ErrRefused, 0, 30 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := new(router)
				ended, cancel := keep(t, r)
				defer cancel()
				r.fail(c.err)
				if c.until > 0 {
					time.Sleep(c.until)
					synctest.Wait()
					r.fail(nil)
				}
				if c.over > 0 {
					if worked := <-ended; !worked || time.Since(r.began) != c.over || r.removed != 1 {
						t.Errorf("over after %v, worked %v, removed %d times; want %v, once", time.Since(r.began), worked, r.removed, c.over)
					}
					return
				}
				time.Sleep(5 * time.Hour)
				synctest.Wait()
				if len(ended) > 0 || r.removed > 0 {
					t.Fatalf("over, removed %d times", r.removed)
				}
				for i := range r.added[1:] {
					if gap := r.added[i+1] - r.added[i]; gap < leastRenew || gap > 30*time.Minute {
						t.Errorf("asked at %v and at %v", r.added[i], r.added[i+1])
					}
				}
				cancel()
				if <-ended; r.removed != 1 {
					t.Errorf("removed %d times, want once", r.removed)
				}
			})
		})
	}
}
