//go:build unix

package acceptance

import (
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// TestBulk measures the throughput of one forwarded connection over a plain cable.
func TestBulk(t *testing.T) {
	size := int64(64 << 20)
	switch {
	case testtier.IsFull():
		size = 1 << 30
	case !testtier.IsLong():
		size = 16 << 20
	}
	for _, c := range []struct {
		name string
		down bool // from the exposer to the connecter
	}{{"to the connecter", true}, {"to the exposer", false}} {
		t.Run(c.name, func(t *testing.T) {
			if !c.down {
				testtier.Long(t)
			}
			l := netlab.New(t)
			left, right := l.Veth(0)
			r := bulk(t, l, left, right, size, c.down, time.Minute)
			t.Logf("%d MiB in %.2f s: %.0f Mbit/s", size>>20, r.took.Seconds(), float64(size)*8/1e6/r.took.Seconds())
			if r.stall > within(2*time.Second) {
				t.Errorf("%v without a byte", r.stall)
			}
		})
	}
}

// TestLossyBulk: over a long path that loses packets in both directions, a transfer keeps moving.
func TestLossyBulk(t *testing.T) {
	testtier.Long(t)
	size, limit := int64(16<<20), time.Minute
	if testtier.IsFull() {
		size, limit = 1<<30, 5*time.Minute
	}
	l := netlab.New(t)
	left, right := l.Link(netlab.LinkConfig{RateBits: 100e6, Delay: 20 * time.Millisecond, Loss: 0.01})
	r := bulk(t, l, left, right, size, true, limit)
	s := left.LinkStats()
	t.Logf("%d MiB in %.2f s: %.1f Mbit/s; longest wait %d ms; link: %d packets, %d lost, %d dropped at the queue", size>>20,
		r.took.Seconds(), float64(size)*8/1e6/r.took.Seconds(), r.stall.Milliseconds(), s.Packets, s.Lost, s.QueueDropped)
	if r.stall > 2*time.Second {
		t.Errorf("%v without a byte", r.stall)
	}
}

// bulk sends size bytes from one host to the other through a forward. The rendezvous is on the exposer's
// host: nothing else is there.
func bulk(t *testing.T, l *netlab.Lab, left, right *netlab.Host, size int64, down bool, limit time.Duration) transfer {
	t.Helper()
	w := &world{t: t, adit: adit(t), lab: l}
	w.serve(left)
	results := make(chan outcome, 1)
	handle := source(size)
	if !down {
		handle = sink(size, limit, results)
	}
	exposer, code := w.expose(left, listen(t, left, handle).String())
	connecter, port := w.forward(right, code)
	c := dial(t, right, port)
	_ = c.SetDeadline(time.Now().Add(limit))
	var o outcome
	if down {
		o.transfer, o.err = drain(c, size, limit)
	} else {
		source(size)(c)
		_ = c.CloseWrite()
		o = <-results
	}
	if o.err != nil {
		t.Fatal(o.err)
	}
	_ = c.Close()
	ends(connecter, exposer)
	return o.transfer
}
