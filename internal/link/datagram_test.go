// In package link: this file uses the network in memory of sim_test.go.

package link

import (
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"time"

	"adit/internal/testtier"
)

// A gauge sees numbered datagrams arrive, each with the time when it was handed over.
type gauge struct {
	mu    sync.Mutex
	began time.Time
	waits []time.Duration // of each, on its way
	at    []time.Duration // when each came
}

func (g *gauge) take(p []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Since(g.began)
	g.waits = append(g.waits, now-time.Duration(binary.BigEndian.Uint64(p[1:])))
	g.at = append(g.at, now)
}

// stream hands over datagrams at a steady rate, a millisecond's worth at a time, and returns how many.
func (g *gauge) stream(l *Link, mbits float64, size int, d time.Duration) (sent int) {
	p := make([]byte, size)
	p[0] = 1
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	for since := time.Duration(0); since < d; since = time.Since(g.began) {
		for float64(sent*size*8) < mbits*1e6*since.Seconds() {
			binary.BigEndian.PutUint64(p[1:], uint64(since))
			l.SendFresh(1, p)
			sent++
		}
		<-t.C
	}
	return sent
}

// TestDatagramStream: datagrams come through at once at a rate that the path carries, however little is known of it
// at first, and nothing silences them for longer than the path does.
func TestDatagramStream(t *testing.T) {
	t.Parallel()
	const delay, mbits, size = 20 * time.Millisecond, 50.0, 1200
	for _, test := range []struct {
		name string
		shape
		mbits float64
		size  int
		lost  float64 // at most, in all
		first float64 // in the first second
		wait  time.Duration
		quiet time.Duration
	}{
		{"clean", shape{rate: 100e6 / 8, queue: 500_000}, mbits, size, 0, 0.001, 240 * time.Millisecond, 50 * time.Millisecond},
		{"barely enough", shape{rate: 60e6 / 8, queue: 300_000}, mbits, size, 0.001, 0.005, 300 * time.Millisecond, 50 * time.Millisecond},
		{"far", shape{rate: 100e6 / 8, queue: 500_000, delay: 100 * time.Millisecond}, mbits, size, 0.25, 0.75, 750 * time.Millisecond, 200 * time.Millisecond},
		{"lossy", shape{rate: 100e6 / 8, queue: 500_000, loss: 0.01}, mbits, size, 0.013, 0.02, 240 * time.Millisecond, 50 * time.Millisecond},
		{"jittery", shape{rate: 100e6 / 8, queue: 500_000, jitter: 10 * time.Millisecond}, mbits, size, 0.001, 0.01, 350 * time.Millisecond, 60 * time.Millisecond},
		{"busy", shape{rate: 100e6 / 8, queue: 500_000, stall: 50 * time.Millisecond}, mbits, size, 0.001, 0.01, 350 * time.Millisecond, 100 * time.Millisecond},
		{"very busy", shape{rate: 100e6 / 8, queue: 500_000, stall: 300 * time.Millisecond}, mbits, size, 0.05, 0.05, 600 * time.Millisecond, 350 * time.Millisecond},
		{"voice", shape{rate: 1e6 / 8, queue: 30_000}, 0.1, 160, 0, 0, 30 * time.Millisecond, 30 * time.Millisecond},
		{"too fast", shape{rate: 10e6 / 8, queue: 100_000}, 50, size, 0.83, 0.83, 400 * time.Millisecond, 50 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.rate > 50e6/8 && test.loss == 0 && test.stall != 50*time.Millisecond {
				testtier.Long(t)
			}
			trials(t, func(t *trial) {
				s := test.shape
				if s.delay == 0 {
					s.delay = delay
				}
				back := s
				back.queue = max(back.queue, 100_000)
				p := newPair(t.T, s, back, nil)
				defer p.close()
				g := gauge{began: time.Now()}
				p.b.Receive(g.take)
				p.up(t.T)
				const d = 5 * time.Second
				g.began = time.Now()
				sent := g.stream(p.a, test.mbits, test.size, d)
				time.Sleep(time.Second)
				g.mu.Lock()
				defer g.mu.Unlock()
				first, quiet := 0, g.at[0]
				for i, at := range g.at {
					if at-g.waits[i] < time.Second {
						first++
					}
					if i > 0 && at < d {
						quiet = max(quiet, at-g.at[i-1])
					}
				}
				lost := 1 - float64(len(g.at))/float64(sent)
				lostFirst := max(0, 1-float64(first)/(float64(sent)/5))
				slices.Sort(g.waits)
				worst := g.waits[len(g.waits)-1]
				_, dropped := p.ab.counts()
				t.Logf("lost %.2f %%, in the first second %.2f %% (link %d, path %d); on the way p50 %v, p99 %v, at most %v; quiet for %v", 100*lost, 100*lostFirst,
					p.a.Stats().Dropped, dropped, g.waits[len(g.waits)/2], g.waits[len(g.waits)*99/100], worst, quiet)
				if lost > test.lost || lostFirst > test.first {
					t.Errorf("lost %.2f %%, in the first second %.2f %%; want %.2f and %.2f at most", 100*lost, 100*lostFirst, 100*test.lost, 100*test.first)
				}
				if worst > test.wait || quiet > test.quiet {
					t.Errorf("at most %v on the way, quiet for %v; want %v and %v", worst, quiet, test.wait, test.quiet)
				}
			})
		})
	}
}
