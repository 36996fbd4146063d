//go:build unix

package acceptance

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// TestBench: over a link whose rate, delay and loss are known, adit bench finds them.
func TestBench(t *testing.T) {
	testtier.Long(t)
	const rate, loss = 20e6, 0.02
	l := netlab.New(t)
	left, right := l.Link(netlab.LinkConfig{RateBits: rate, Delay: oneWay, Loss: loss})
	w := &world{t: t, adit: adit(t), lab: l}
	w.serve(left)
	exposer, code := w.expose(left, "--allow-bench")
	out := command(t, right, []string{w.adit, "bench", code, "--time", "3s", "--signal", w.signal, "--json", "--config", os.DevNull})
	exposer.exits(0, patience)

	type phase struct {
		Rate float64 `json:"mbit_s"`
		RTT  struct {
			P50 float64 `json:"p50"`
			P99 float64 `json:"p99"`
		} `json:"rtt_ms"`
		Packets, Lost, Resent float64
	}
	var found struct {
		Event          string
		Idle, Down, Up phase
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, `{"event":"bench"`) {
			if err := json.Unmarshal([]byte(line), &found); err != nil {
				t.Fatal(err)
			}
		}
	}
	if found.Event == "" {
		t.Fatalf("no result in\n%s", out)
	}
	trip := float64(2*oneWay) / float64(time.Millisecond)
	if p50 := found.Idle.RTT.P50; p50 < trip || p50 > 1.25*trip {
		t.Errorf("idle: a round trip takes %.1f ms, want %.0f", p50, trip)
	}
	for name, p := range map[string]phase{"down": found.Down, "up": found.Up} {
		t.Logf("%s: %.1f Mbit/s, round trip p50 %.1f ms, p99 %.1f ms, %.0f packets, %.0f lost, %.0f resent", name, p.Rate, p.RTT.P50, p.RTT.P99, p.Packets, p.Lost, p.Resent)
		// Not more than the link has. How much of it adit fills is for other tests.
		if p.Rate < rate/1e6/4 || p.Rate > rate/1e6 {
			t.Errorf("%s: %.1f Mbit/s on a link of %.0f", name, p.Rate, rate/1e6)
		}
		if p.RTT.P50 < trip {
			t.Errorf("%s: a round trip takes %.1f ms on a link of %.0f", name, p.RTT.P50, trip)
		}
		// The queue of the link loses some, too.
		if share := p.Lost / p.Packets; share < loss/3 || share > 5*loss {
			t.Errorf("%s: %.2f %% lost on a link that loses %.0f %%", name, 100*share, 100*loss)
		}
		if p.Resent < p.Lost/2 {
			t.Errorf("%s: %.0f packets lost, %.0f sent again", name, p.Lost, p.Resent)
		}
	}
}
