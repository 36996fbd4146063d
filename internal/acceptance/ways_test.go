//go:build unix

package acceptance

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// TestSecondUplink: a machine with a second uplink behind source routing goes on over it when the first one, which
// keeps its route, carries nothing any more.
func TestSecondUplink(t *testing.T) {
	testtier.Long(t)
	for name, exposes := range map[string]bool{"of the exposer": true, "of the connecter": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			one := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
			other := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
			second := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
			addr := other.JoinByRule(second)
			if d, p := w.doctor(other, 0, "--signal", w.signal, "--no-port-mapping"); d.Class == "" || !strings.Contains(p.out.String(),
				fmt.Sprintf(`"ways":[{"from":"%v","public":"%v","used":true}]`, addr, second.PublicAddr())) {
				t.Errorf("doctor does not show the second way: %s", p.out)
			}
			left, right := one, other
			if exposes {
				left, right = other, one
			}
			exposer, code := w.expose(left, listen(t, left, func(c net.Conn) { _, _ = io.Copy(c, c) }).String())
			connecter, port := w.forward(right, code)
			c := dial(t, right, port)
			ask := func(n uint32) {
				t.Helper()
				b := binary.BigEndian.AppendUint32(nil, n)
				if _, err := c.Write(b); err != nil {
					t.Fatal(err)
				}
				_ = c.SetReadDeadline(time.Now().Add(patience))
				if _, err := c.Read(b); err != nil || binary.BigEndian.Uint32(b) != n {
					t.Fatalf("%d came back as %d, %v", n, binary.BigEndian.Uint32(b), err)
				}
			}
			ask(1)
			began := time.Now()
			out, err := other.RouterCommand(context.Background(), "ip", "link", "set", "wan", "down").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			ask(2)
			t.Logf("on after %.1f s", time.Since(began).Seconds())
			ask(3)
			watch := map[bool]*process{true: connecter, false: exposer}[exposes]
			events, _, _ := watch.events()
			to := ""
			for _, e := range events {
				if e.Name == "up" {
					to = e.Remote
				}
			}
			if !strings.Contains(to, second.PublicAddr().String()+":") {
				t.Errorf("the peer is at %q, want the second uplink, %v", to, second.PublicAddr())
			}
			ends(connecter, exposer)
		})
	}
}
