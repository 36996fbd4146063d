package netlab

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"
)

// TestFly: jitter spreads arrivals and lets nothing overtake; reordering holds back the share it should, by
// what it should, and deliveries stay sorted by time.
func TestFly(t *testing.T) {
	const packets, spacing, delay = 10_000, 100 * time.Microsecond, 20 * time.Millisecond
	for _, c := range []struct {
		name    string
		config  LinkConfig
		late    float64 // share of packets that a later one overtakes
		longest time.Duration
	}{
		{"plain", LinkConfig{Delay: delay}, 0, delay},
		{"jitter", LinkConfig{Delay: delay, Jitter: 5 * time.Millisecond}, 0, delay + 5*time.Millisecond},
		{"reorder", LinkConfig{Delay: delay, Reorder: 0.02}, 0.02, delay + delay/8},
		{"both", LinkConfig{Delay: delay, Jitter: 5 * time.Millisecond, Reorder: 0.02}, 0.02, delay + 5*time.Millisecond + delay/8},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &way{LinkConfig: c.config, rnd: rand.New(rand.NewPCG(1, 2))}
			for i := range packets {
				w.fly(binary.BigEndian.AppendUint32(nil, uint32(i)), int64(i)*spacing.Nanoseconds()+delay.Nanoseconds())
			}
			overtaken, newest, last := 0, uint32(0), int64(0)
			for _, p := range w.flight {
				i := binary.BigEndian.Uint32(p.data)
				took := time.Duration(p.due - int64(i)*spacing.Nanoseconds())
				if took < delay || took > c.longest {
					t.Fatalf("packet %d takes %v, want %v to %v", i, took, delay, c.longest)
				}
				if p.due < last {
					t.Fatalf("packet %d is due before the one in front of it", i)
				}
				if i < newest {
					overtaken++
				}
				newest, last = max(newest, i), p.due
			}
			if share := float64(overtaken) / packets; share < c.late*0.7 || share > c.late*1.3 {
				t.Errorf("%.4f overtaken, want %.4f", share, c.late)
			}
			if len(w.flight) != packets {
				t.Errorf("%d packets, want %d", len(w.flight), packets)
			}
		})
	}
}
