//go:build unix

package acceptance

import (
	"fmt"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// TestPortMapping: two NATs that no hole can be punched through connect directly when either router
// maps ports, by each of the protocols.
func TestPortMapping(t *testing.T) {
	testtier.Long(t)
	for _, c := range []struct {
		name      string
		upnp, pmp bool
		connecter bool // it is the connecter's router
	}{
		{"PCP at the exposer", false, true, false},
		{"UPnP at the exposer", true, false, false},
		{"all at the connecter", true, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			left, right := w.lab.Host(netlab.Symmetric, netlab.HostOptions{}), w.lab.Host(netlab.Symmetric, netlab.HostOptions{})
			if c.connecter {
				right.MapPorts(c.upnp, c.pmp)
			} else {
				left.MapPorts(c.upnp, c.pmp)
			}
			sshd := newSSHServer(t, left)
			for range rounds() {
				exposer, code := w.expose(left, fmt.Sprintf("localhost:%d", sshPort))
				began := time.Now()
				connecter, port := w.forward(right, code)
				t.Logf("up after %d ms", time.Since(began).Milliseconds())
				sshd.over(right, port)
				ends(connecter, exposer)
			}
		})
	}
}
