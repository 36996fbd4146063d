//go:build unix

package acceptance

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// A machineRoom is one exposer behind a NAT and processes with keys that it knows, of which the first two make
// trouble if they are told to, and one with a key that it does not know.
type machineRoom struct {
	*world
	home     *keyholder
	away     []*keyholder // the stranger is the last
	rooms    []*netlab.Host
	target   netip.AddrPort
	size     int64 // that each sends
	deadline time.Duration
}

// roomFigures are what those who make no trouble saw.
type roomFigures struct {
	meet, pour quantiles
	idle, peak int64   // bytes of the exposer's memory for each session
	all        float64 // Mbit/s
}

// Quantiles are what there is to say of many times.
type quantiles struct{ p50, p99, worst time.Duration }

func quantilesOf(times []time.Duration) quantiles {
	slices.Sort(times)
	n := len(times)
	return quantiles{times[n/2], times[n*99/100], times[n-1]}
}

func (q quantiles) String() string {
	return fmt.Sprintf("p50 %.2f s, p99 %.2f s, worst %.2f s", q.p50.Seconds(), q.p99.Seconds(), q.worst.Seconds())
}

func newMachineRoom(t testing.TB, peers int, size int64) *machineRoom {
	w := newWorld(t)
	m := &machineRoom{world: w, home: w.keyholder(w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})), size: size, deadline: 4 * time.Minute}
	// Ten to a machine: the rendezvous lets no address have more than sixteen offers at once.
	for n := range (peers + 10) / 10 {
		m.rooms = append(m.rooms, w.lab.Public(fmt.Sprint("room", n)))
	}
	known := map[string]string{}
	for n := range peers + 1 {
		k := w.keyholder(m.rooms[n/10])
		k.knows(t, map[string]string{"home": m.home.key})
		if n < peers {
			known[fmt.Sprint("peer", n)] = k.key
		}
		m.away = append(m.away, k)
	}
	m.home.knows(t, known)
	m.target = listen(t, m.home.Host, hashing)
	return m
}

// connect starts the process of one.
func (m *machineRoom) connect(n int) *process {
	return m.away[n].run(m.world, "connect", "home", "-L", "0", "--signal", m.signal)
}

// run has everybody meet and send. With trouble the first floods the exposer all the while, the second
// is stopped in the middle of a transfer, and the stranger knocks.
func (m *machineRoom) run(trouble bool) (f roomFigures) {
	m.t.Helper()
	t, peers := m.t, len(m.away)-1
	exposer := m.home.run(m.world, "expose", m.target.String(), "--listen", "--signal", m.signal)
	exposer.await("reachable")
	before := exposer.memory()
	connecters := make([]*process, peers)
	ports := make([]netip.AddrPort, peers)
	met := func(n int) time.Duration {
		e, at := connecters[n].awaitFor("listening", time.Minute)
		ports[n] = netip.MustParseAddrPort(e.Addr)
		return at.Sub(connecters[n].out.began)
	}
	for n := range 2 {
		connecters[n] = m.connect(n)
		met(n)
	}
	flood, enough := context.WithCancel(t.Context())
	defer enough()
	var wg sync.WaitGroup
	var stranger *process
	if trouble {
		stranger = m.connect(peers)
		wg.Go(func() {
			for flood.Err() == nil {
				_ = pour(m.rooms[0], ports[0], 0, 1<<40, time.Second) // cut off, and begun again
			}
		})
		wg.Go(func() { _ = pour(m.rooms[0], ports[1], 1, 1<<40, m.deadline) }) // ended with its process
		<-time.After(300 * time.Millisecond)
		connecters[1].pause()
	}
	for n := 2; n < peers; n++ {
		connecters[n] = m.connect(n)
	}
	var times []time.Duration
	for n := 2; n < peers; n++ {
		times = append(times, met(n))
	}
	f.meet = quantilesOf(times)
	f.idle = (exposer.memory() - before) / int64(peers)

	var peak atomic.Int64
	wg.Go(func() {
		for flood.Err() == nil {
			peak.Store(max(peak.Load(), exposer.memory()))
			select {
			case <-time.After(100 * time.Millisecond):
			case <-flood.Done():
			}
		}
	})
	began := time.Now()
	var mu sync.Mutex
	times = nil
	var pours sync.WaitGroup
	for n := 2; n < peers; n++ {
		pours.Go(func() {
			if err := pour(m.rooms[n/10], ports[n], byte(n), m.size, m.deadline); err != nil {
				t.Errorf("peer %d: %v", n, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, time.Since(began))
		})
	}
	pours.Wait()
	enough()
	connecters[1].resume()
	connecters[1].kill()
	wg.Wait()
	if len(times) < peers-2 {
		t.Fatalf("%d of %d have sent all", len(times), peers-2)
	}
	f.pour = quantilesOf(times)
	f.peak = (peak.Load() - before) / int64(peers)
	f.all = float64(len(times)) * float64(m.size) * 8 / 1e6 / f.pour.worst.Seconds()
	if stranger != nil {
		if stranger.count("up") != 0 {
			t.Error("a stranger got in")
		}
		stranger.kill()
	}
	for _, p := range connecters {
		p.interrupt()
	}
	for _, p := range connecters {
		p.gone(patience)
	}
	exposer.interrupt()
	exposer.exits(130, patience)
	return f
}

// TestMachineRoom: one exposer behind a NAT, a dozen processes with keys (a hundred in the full tier), each of
// which sends 10 MB that arrive as they were. Then all of it again, while one of them floods, one is stopped in the
// middle of a transfer, and one is not on the list: the others do not notice.
func TestMachineRoom(t *testing.T) {
	testtier.Long(t)
	peers, size := 12, int64(2e6)
	if testtier.IsFull() {
		peers, size = 100, 10e6
	}
	m := newMachineRoom(t, peers, size)
	quiet := m.run(false)
	loud := m.run(true)
	for _, x := range []struct {
		name string
		roomFigures
	}{{"quiet", quiet}, {"trouble", loud}} {
		t.Logf("%-8s %d met: %v", x.name, peers-2, x.meet)
		t.Logf("%-8s %d MB each: %v; %.0f Mbit/s in all", x.name, size/1e6, x.pour, x.all)
		t.Logf("%-8s the exposer's memory: %d KiB for each idle one, at most %d KiB for each", x.name, x.idle>>10, x.peak>>10)
		if x.peak > 10<<20 {
			t.Errorf("%s: an active session takes %d KiB of the exposer, want less than 10 MiB", x.name, x.peak>>10)
		}
	}
	if quiet.idle > 1<<20 {
		t.Errorf("an idle session takes %d KiB of the exposer, want less than 1 MiB", quiet.idle>>10)
	}
	// The trouble makers have processors, too: those of this machine are everybody's.
	for _, x := range []struct {
		what        string
		quiet, loud time.Duration
	}{
		{"half have met", quiet.meet.p50, loud.meet.p50},
		{"all have met", quiet.meet.worst, loud.meet.worst},
		{"half have sent", quiet.pour.p50, loud.pour.p50},
		{"all have sent", quiet.pour.worst, loud.pour.worst},
	} {
		if ratio := x.loud.Seconds() / x.quiet.Seconds(); ratio > 1.5 && x.loud-x.quiet > time.Second {
			t.Errorf("%s after %v with trouble and %v without: %.2f times as long", x.what, x.loud, x.quiet, ratio)
		}
	}
}
