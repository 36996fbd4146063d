//go:build unix

package acceptance

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// TestNarrowPath: where a line carries less than IPv6's least MTU and nobody tells, data passes both ways, adit bench
// measures it, and adit doctor says it.
func TestNarrowPath(t *testing.T) {
	testtier.Long(t)
	w := newWorld(t)
	mtus := []int{1124}
	if testtier.IsFull() {
		mtus = []int{1240, 1220, 1124, 1000, 800, 576}
	}
	for _, mtu := range mtus {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			w := w.in(t)
			left := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
			right := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
			right.Narrow(mtu)
			const size = 300_000
			exposer, code := w.expose(left, listen(t, left, source(size)).String(), "--allow-bench")
			connecter, port := w.forward(right, code)
			r, err := drain(dial(t, right, port), size, 20*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes in %.2f s", size, r.took.Seconds())
			ends(connecter, exposer)

			exposer, code = w.expose(left, "--allow-bench")
			out := command(t, right, []string{w.adit, "bench", code, "--time", "3s", "--signal", w.signal, "--json", "--config", os.DevNull})
			exposer.exits(0, patience)
			var found struct {
				Event    string
				Down, Up struct {
					Rate float64 `json:"mbit_s"`
				}
				PacketBytes int `json:"packet_bytes"`
			}
			for line := range strings.Lines(out) {
				if strings.HasPrefix(line, `{"event":"bench"`) {
					if err := json.Unmarshal([]byte(line), &found); err != nil {
						t.Fatal(err)
					}
				}
			}
			t.Logf("bench: %+v", found)
			if found.Down.Rate < 1 || found.Up.Rate < 1 || found.PacketBytes == 0 || found.PacketBytes+28+28 > mtu {
				t.Errorf("bench says %+v on a line of %d bytes", found, mtu)
			}
			report, _ := w.doctor(right, 0, "--signal", w.signal, "--no-port-mapping")
			if report.IPv4.MTU > mtu || report.IPv4.MTU < mtu*2/3 {
				t.Errorf("doctor says %d bytes", report.IPv4.MTU)
			}
		})
	}
}
