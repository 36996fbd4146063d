//go:build unix

package acceptance

import (
	"crypto/rand"
	"crypto/sha256"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"adit/internal/netlab"
)

// A copying is a transfer that goes on while the network under it changes. What the receiver has is counted,
// so that a gap can be measured.
type copying struct {
	t        testing.TB
	received atomic.Int64
	progress chan struct{} // capacity 1
	stop     chan struct{}
	sums     chan [2][32]byte
}

// copyThrough sends random bytes through a tunnel between two hosts, from the connecter to the exposer,
// until it is told to stop.
func (w *world) copyThrough(left, right *netlab.Host, flags ...string) (c *copying, exposer, connecter *process) {
	w.t.Helper()
	c = &copying{t: w.t, progress: make(chan struct{}, 1), stop: make(chan struct{}), sums: make(chan [2][32]byte, 1)}
	sum := make(chan [32]byte, 1)
	sink := listen(w.t, left, func(conn net.Conn) {
		h := sha256.New()
		b := make([]byte, 64<<10)
		for {
			n, err := conn.Read(b)
			h.Write(b[:n])
			c.received.Add(int64(n))
			select {
			case c.progress <- struct{}{}:
			default:
			}
			if err != nil {
				break
			}
		}
		sum <- [32]byte(h.Sum(nil))
	})
	exposer, code := w.expose(left, append(flags, sink.String())...)
	connecter, port := w.forward(right, code, flags...)
	conn := dial(w.t, right, port)
	go func() {
		h := sha256.New()
		b := make([]byte, 32<<10)
		t := time.NewTicker(10 * time.Millisecond) // 3 MB/s: the machine is to have time for the rest
		defer t.Stop()
		for {
			select {
			case <-c.stop:
				_ = conn.CloseWrite()
				var got [32]byte
				select {
				case got = <-sum:
				case <-time.After(patience):
				}
				c.sums <- [2][32]byte{[32]byte(h.Sum(nil)), got}
				return
			case <-t.C:
			}
			rand.Read(b)
			n, err := conn.Write(b)
			h.Write(b[:n])
			if err != nil {
				<-c.stop
				c.sums <- [2][32]byte{{1}}
				return
			}
		}
	}()
	c.flows(patience)
	return c, exposer, connecter
}

// flows waits until more has come through, which takes at most limit, and returns how long that took.
func (c *copying) flows(limit time.Duration) time.Duration {
	c.t.Helper()
	began := time.Now()
	deadline := time.After(limit)
	// What was under way may still come in: half a megabyte is more than that.
	for want := c.received.Load() + 512<<10; c.received.Load() < want; {
		select {
		case <-c.progress:
		case <-deadline:
			c.t.Fatalf("nothing comes through %v later", limit)
		}
	}
	return time.Since(began)
}

// ends ends the transfer and compares both sides of it.
func (c *copying) ends() {
	c.t.Helper()
	close(c.stop)
	if s := <-c.sums; s[0] != s[1] {
		c.t.Errorf("the receiver got something else than was sent")
	}
}

// onRouter runs a command on the router of a host.
func onRouter(t testing.TB, h *netlab.Host, args ...string) {
	t.Helper()
	if out, err := h.RouterCommand(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

// flush makes the router of a host forget its mappings.
func flush(t testing.TB, h *netlab.Host) { onRouter(t, h, "conntrack", "-F") }

// cut takes the router of a host from the internet for a while.
func cut(t testing.TB, h *netlab.Host, d time.Duration) {
	onRouter(t, h, "ip", "link", "set", "wan", "down")
	time.Sleep(d)
	onRouter(t, h, "ip", "link", "set", "wan", "up")
	onRouter(t, h, "ip", "route", "replace", "default", "via", "198.51.100.1")
}

// TestRoam: a copy goes on over every fault of the networks under it, and soon.
func TestRoam(t *testing.T) {
	tool(t, "conntrack")
	type scene struct {
		*world
		left, right, other, another *netlab.Host
		exposer, connecter          *process
	}
	for _, c := range []struct {
		name  string
		long  bool
		limit time.Duration
		fault func(s *scene)
	}{
		{"mapping lost at the sender", false, time.Second, func(s *scene) { flush(s.t, s.right) }},
		{"mapping lost at the receiver", false, time.Second, func(s *scene) { flush(s.t, s.left) }},
		{"mappings lost at both", false, time.Second, func(s *scene) { flush(s.t, s.left); flush(s.t, s.right) }},
		{"another address of the sender", false, 2 * time.Second, func(s *scene) { s.right.Readdress() }},
		{"another address of the receiver", false, 2 * time.Second, func(s *scene) { s.left.Readdress() }},
		{"another NAT of the sender", false, 2 * time.Second, func(s *scene) { s.right.Move(s.other) }},
		{"another NAT of the receiver", false, 2 * time.Second, func(s *scene) { s.left.Move(s.other) }},
		{"other NATs of both", false, 6 * time.Second, func(s *scene) { s.left.Move(s.other); s.right.Move(s.another) }},
		{"link down for 5 s", false, 2 * time.Second, func(s *scene) { cut(s.t, s.left, 5*time.Second) }},
		{"link down for 60 s", true, 2 * time.Second, func(s *scene) { cut(s.t, s.left, time.Minute) }},
		{"link down for 10 min", true, 2 * time.Second, func(s *scene) { cut(s.t, s.left, 9*time.Minute+50*time.Second) }},
		{"both stopped for 120 s", true, 3 * time.Second, func(s *scene) {
			s.exposer.pause()
			s.connecter.pause()
			time.Sleep(2 * time.Minute)
			s.exposer.resume()
			s.connecter.resume()
		}},
		{"rendezvous away while one side moves", false, 5 * time.Second, func(s *scene) {
			s.server.pause()
			s.right.Move(s.other)
			time.Sleep(8 * time.Second)
			s.server.resume()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.long && !long {
				t.Skip("takes minutes: set ADIT_LONG")
			}
			w := newWorld(t)
			nat := func() *netlab.Host { return w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}) }
			s := &scene{world: w, left: nat(), right: nat(), other: nat(), another: nat()}
			var copying *copying
			copying, s.exposer, s.connecter = w.copyThrough(s.left, s.right, "-v")
			c.fault(s)
			took := copying.flows(c.limit + patience)
			t.Logf("data again after %.2f s", took.Seconds())
			if took > c.limit {
				t.Errorf("data again only after %v, want %v", took, c.limit)
			}
			copying.ends()
			ends(s.connecter, s.exposer)
		})
	}
}

// TestRelayTakesOver: a firewall closes the direct path; the relay has the session until it is open again.
func TestRelayTakesOver(t *testing.T) {
	w := newRelayWorld(t)
	left, right := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}), w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
	copying, exposer, connecter := w.copyThrough(left, right)
	onRouter(t, left, "nft", "insert", "rule", "inet", "filter", "forward", "ip", "saddr", right.PublicAddr().String(), "drop")
	onRouter(t, left, "nft", "insert", "rule", "inet", "filter", "forward", "ip", "daddr", right.PublicAddr().String(), "drop")
	took := copying.flows(patience)
	t.Logf("data again after %.2f s", took.Seconds())
	if took > 4*time.Second {
		t.Errorf("the relay took over only after %v", took)
	}
	e, _ := connecter.await("up")
	for e.Path != "relay" {
		e, _ = connecter.await("up")
	}
	began := time.Now()
	onRouter(t, left, "nft", "flush", "chain", "inet", "filter", "forward")
	e, at := connecter.await("up")
	t.Logf("%s again after %.2f s", e.Path, at.Sub(began).Seconds())
	if e.Path != "direct" || at.Sub(began) > 15*time.Second {
		t.Errorf("%s after %v, want direct within 15 s", e.Path, at.Sub(began))
	}
	copying.flows(patience)
	copying.ends()
	ends(connecter, exposer)
}

// TestGoodbyeByLetter: a side that ends while there is no path leaves word at the rendezvous.
func TestGoodbyeByLetter(t *testing.T) {
	w := newWorld(t)
	left, right := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}), w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
	copying, exposer, connecter := w.copyThrough(left, right)
	onRouter(t, left, "nft", "insert", "rule", "inet", "filter", "forward", "meta", "l4proto", "udp", "drop")
	connecter.await("interrupted")
	exposer.await("interrupted")
	exposer.interrupt()
	exposer.exits(130, patience)
	connecter.exits(0, patience)
	close(copying.stop)
	<-copying.sums
}
