package portmap

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"syscall"
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
	forgot  bool
}

func (*router) protocol() Protocol { return PCP }

func (r *router) add(_ context.Context, _, external int) (netip.AddrPort, time.Duration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.added = append(r.added, time.Since(r.began))
	r.forgot = r.forgot && r.err != nil
	return netip.AddrPortFrom(netip.MustParseAddr("20.0.0.1"), uint16(external)), time.Hour, r.err
}

func (r *router) check(context.Context, int, int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.forgot && r.err == nil
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

// keepAt has a Mapper keep the port at r, after the first time that it asked. hear is an announcement.
func keepAt(t *testing.T, r *router) (ended chan bool, hear func(), cancel context.CancelFunc) {
	heard := make(chan func(), 1)
	m := &Mapper{cfg: Config{Port: 4000}, log: slog.New(slog.DiscardHandler), found: func(Mapping) {}, tried: make(chan struct{}), renew: make(chan struct{}, 1)}
	m.listen = func(ctx context.Context, _ netip.Addr, f func()) { heard <- f; <-ctx.Done() }
	ctx, cancel := context.WithCancel(t.Context())
	ended = make(chan bool, 1)
	r.began = time.Now()
	go func() {
		worked, _ := m.keep(ctx, netip.Addr{}, r, new(Mapping))
		ended <- worked
	}()
	synctest.Wait()
	return ended, <-heard, cancel
}

// TestKeep: a router that does not answer has until the end of the mapping's lifetime.
func TestKeep(t *testing.T) {
	for _, c := range []struct {
		name  string
		err   error         // of renewals
		until time.Duration // when they work again; 0 for never
		over  time.Duration // when it gives up; 0 for never
	}{
		{"answers", nil, 0, 0},
		{"silent for a while", os.ErrDeadlineExceeded, 45 * time.Minute, 0},
		{"silent", context.DeadlineExceeded, 0, time.Hour},
		{"refuses", ErrRefused, 0, checkEvery},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := new(router)
				ended, _, cancel := keepAt(t, r)
				defer cancel()
				r.fail(c.err)
				if c.until > 0 {
					time.Sleep(c.until)
					synctest.Wait()
					r.fail(nil)
				}
				if c.over > 0 {
					if worked := <-ended; !worked || time.Since(r.began) < c.over || time.Since(r.began) > c.over+leastRenew || r.removed != 1 {
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

// TestRestart: a router that has forgotten the mapping is asked at once when it says so, soon when it does not, and a
// router that is away meanwhile is waited for.
func TestRestart(t *testing.T) {
	for _, c := range []struct {
		name  string
		err   error // for a minute
		heard bool
		want  time.Duration // after that minute
	}{
		{"announced", nil, true, 0},
		{"checked", nil, false, checkEvery},
		{"away, then announced", os.ErrDeadlineExceeded, true, 0},
		{"away, then checked", os.ErrDeadlineExceeded, false, checkEvery},
		{"closed, then checked", syscall.ECONNREFUSED, false, checkEvery},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := new(router)
				ended, hear, cancel := keepAt(t, r)
				defer cancel()
				r.fail(c.err)
				time.Sleep(time.Minute + time.Second)
				synctest.Wait()
				back := time.Since(r.began)
				r.mu.Lock()
				r.err, r.forgot = nil, true
				r.mu.Unlock()
				if c.heard {
					hear()
					hear() // there may be several
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				r.mu.Lock()
				last := r.added[len(r.added)-1]
				if last < back || last > back+c.want || r.forgot || len(r.added) > 6 {
					t.Errorf("back after %v, asked at %v, want within %v", back, r.added, c.want)
				}
				r.mu.Unlock()
				if len(ended) > 0 {
					t.Error("gave up")
				}
				cancel()
				<-ended
			})
		})
	}
}
