//go:build unix

package acceptance

import (
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

const (
	upLimit = time.Second // from the joiner's start to its path
	oneWay  = 20 * time.Millisecond
)

// upTime starts a joiner by code and returns how long it takes to be up. Both hosts are behind NATs, and
// every packet between a NAT and the internet takes oneWay: 40 ms to the rendezvous and back, 80 ms to
// the peer and back.
func upTime(t testing.TB, w *world, left, right *netlab.Host) (took time.Duration, rtt float64) {
	t.Helper()
	exposer, code := w.expose(left, "22")
	began := time.Now()
	connecter := w.connect(right, code, "-L", "0")
	e, at := connecter.await("up")
	took = at.Sub(began)
	exposer.await("up")
	ends(connecter, exposer)
	return took, e.RTT
}

func distant(t testing.TB) (w *world, left, right *netlab.Host) {
	w = newWorld(t, netlab.WithUplink(netlab.LinkConfig{Delay: oneWay}))
	return w, w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}), w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
}

// TestUp holds the time to a path to its limit: the best of three, because the machine may be busy.
func TestUp(t *testing.T) {
	testtier.Long(t)
	w, left, right := distant(t)
	best := time.Hour
	for range 3 {
		took, rtt := upTime(t, w, left, right)
		t.Logf("up after %d ms, round trip %.1f ms", took.Milliseconds(), rtt)
		if want := float64(4 * oneWay.Milliseconds()); rtt < want || rtt > 2*want {
			t.Errorf("up event says %.1f ms for a round trip of %.0f ms", rtt, want)
		}
		best = min(best, took)
	}
	if best > upLimit {
		t.Errorf("up after %v at best, want %v", best, upLimit)
	}
}

func BenchmarkUp(b *testing.B) {
	w, left, right := distant(b)
	var sum time.Duration
	n := 0
	for b.Loop() {
		took, _ := upTime(b, w, left, right)
		sum += took
		n++
	}
	b.ReportMetric(float64(sum.Milliseconds())/float64(n), "ms-to-up")
}
