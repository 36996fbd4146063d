package congestion

import "testing"

func TestBursts(t *testing.T) {
	c := Control{bursts: bursts{size: initialBurst}}
	b := &c.bursts
	round := func(tokens float64, standing, calm int, lost bool) {
		c.Spent(tokens)
		for range standing {
			b.sample(true)
		}
		for range calm {
			b.sample(false)
		}
		b.round(lost)
	}
	for _, step := range []struct {
		name           string
		tokens         float64
		standing, calm int
		lost           bool
		want           float64
	}{
		{"not used", initialBurst, 0, 4, false, initialBurst},
		{"used", 0, 0, 4, false, 2 * initialBurst},
		{"with some queue", 0, 2, 4, false, 2 * initialBurst},
		{"with a queue", 0, 3, 1, false, initialBurst},
		{"with loss", 0, 0, 4, true, initialBurst / 2},
		{"again", 0, 0, 4, true, leastBurst},
		{"nothing heard", initialBurst, 0, 0, false, leastBurst},
	} {
		if round(step.tokens, step.standing, step.calm, step.lost); b.size != step.want {
			t.Errorf("%s: %v bytes, want %v", step.name, b.size, step.want)
		}
	}
	for range 10 {
		round(0, 0, 1, false)
	}
	if b.size != mostBurst {
		t.Errorf("grew to %v bytes, want %v", b.size, mostBurst)
	}
}
