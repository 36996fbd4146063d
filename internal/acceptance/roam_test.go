//go:build unix

package acceptance

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// In the full tier each fault comes so many times in one session, and when everything has settled: searches are over.
const (
	again  = 10
	settle = 3 * time.Second
)

func times() int {
	if testtier.IsFull() {
		return again
	}
	return 1
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
	t.Helper()
	onRouter(t, h, "ip", "link", "set", "wan", "down")
	time.Sleep(d)
	onRouter(t, h, "ip", "link", "set", "wan", "up")
	onRouter(t, h, "ip", "route", "replace", "default", "via", "198.51.100.1")
}

// drop makes the router of a host swallow what it forwards and a condition of nft matches, until heal.
func drop(t testing.TB, h *netlab.Host, condition ...string) {
	t.Helper()
	onRouter(t, h, "nft", "add", "table", "inet", "fault")
	onRouter(t, h, "nft", "add", "chain", "inet", "fault", "forward", "{ type filter hook forward priority -5; }")
	onRouter(t, h, append(append([]string{"nft", "add", "rule", "inet", "fault", "forward"}, condition...), "drop")...)
}

func heal(t testing.TB, h *netlab.Host) {
	t.Helper()
	onRouter(t, h, "nft", "delete", "table", "inet", "fault")
}

// A roaming is a session whose networks get faults.
type roaming struct {
	*world
	left, right, other, another *netlab.Host // the exposer's machine, the connecter's, and two more
	exposer, connecter          *process
	copying                     *copying

	join  sync.Once
	hops  int
	sites []*netlab.Host // where the exposer's machine goes, beside left; made when it does
}

func newRoaming(w *world, kind netlab.NAT) *roaming {
	nat := func() *netlab.Host { return w.lab.Host(kind, netlab.HostOptions{}) }
	return &roaming{world: w, left: nat(), right: nat(), other: nat(), another: nat()}
}

// start begins a session with a copy and somebody who types. In the full tier these are scp and ssh.
func (r *roaming) start(flags ...string) {
	r.t.Helper()
	if testtier.IsFull() {
		r.startSSH(scpSize, scpLimit, flags...)
		return
	}
	r.copying, r.exposer, r.connecter = r.copyThrough(r.left, r.right, append(flags, "-v")...)
}

// startSSH is start with scp and ssh in any form. So many bytes are copied, with so many kbit/s.
func (r *roaming) startSSH(size int64, limit int, flags ...string) {
	r.t.Helper()
	r.copying, r.exposer, r.connecter = r.copyBySSH(r.left, r.right, size, limit, append(flags, "-v")...)
}

// back checks that everything flows again within the limit.
func (r *roaming) back(limit time.Duration) {
	r.t.Helper()
	limit = within(limit)
	took := r.copying.flows(limit + patience)
	r.t.Logf("back after %.2f s", took.Seconds())
	if took > limit {
		r.t.Errorf("back only after %v, want %v", took, limit)
	}
}

func (r *roaming) end() {
	r.t.Helper()
	r.copying.ends()
	ends(r.connecter, r.exposer)
}

// stopBoth stops both processes for a while.
func (r *roaming) stopBoth(d time.Duration) {
	r.exposer.pause()
	r.connecter.pause()
	time.Sleep(d)
	r.exposer.resume()
	r.connecter.resume()
}

// hop moves the connecter's machine to another NAT: another one each time.
func (r *roaming) hop() {
	r.t.Helper()
	r.hops++
	r.enter(r.right, []*netlab.Host{r.another, r.other}[r.hops%2])
}

// hopLeft does the same with the exposer's.
func (r *roaming) hopLeft(kind netlab.NAT) {
	r.t.Helper()
	if len(r.sites) < 2 {
		r.sites = append(r.sites, r.lab.Host(kind, netlab.HostOptions{}))
	} else {
		r.sites[0], r.sites[1] = r.sites[1], r.sites[0]
	}
	r.enter(r.left, r.sites[len(r.sites)-1])
}

// enter moves a machine into an empty network. What was there before had the same port, for which its router
// would still hold the mapping: a port-restricted NAT would be a symmetric one for a while.
func (r *roaming) enter(h, site *netlab.Host) {
	r.t.Helper()
	flush(r.t, site)
	h.Move(site)
}

// withoutRendezvous kills the rendezvous for a while, at whose end one side moves.
func (r *roaming) withoutRendezvous(d time.Duration) {
	r.t.Helper()
	r.server.kill()
	r.server.gone(patience)
	time.Sleep(d)
	r.hop()
	time.Sleep(2 * time.Second) // it looks for the peer in vain
	r.serveAgain()
}

// TestRoam: a copy and somebody who types go on over every fault of the networks under them, and soon.
func TestRoam(t *testing.T) {
	tool(t, "conntrack")
	type fault = func(r *roaming)
	for _, c := range []struct {
		name   string
		long   bool
		limit  time.Duration
		speed  int     // of scp; 0 is scpLimit. What is lower lets the path work for longer before the fault
		faults []fault // one after the other
	}{
		{"mapping lost at the sender", false, time.Second, 0, []fault{func(r *roaming) { flush(r.t, r.right) }}},
		{"mapping lost at the receiver", false, time.Second, 0, []fault{func(r *roaming) { flush(r.t, r.left) }}},
		{"mappings lost at both", false, time.Second, 0, []fault{func(r *roaming) { flush(r.t, r.left); flush(r.t, r.right) }}},
		{"another address of the sender", false, 2 * time.Second, 0, []fault{func(r *roaming) { r.right.Readdress() }}},
		{"another address of the receiver", false, 2 * time.Second, 0, []fault{func(r *roaming) { r.left.Readdress() }}},
		{"another NAT of the sender", false, 2 * time.Second, 0, []fault{func(r *roaming) { r.hop() }}},
		{"another NAT of the receiver", false, 2 * time.Second, 0, []fault{func(r *roaming) { r.hopLeft(netlab.PortRestricted) }}},
		{"other NATs of both", false, 6 * time.Second, 0, []fault{func(r *roaming) { r.hopLeft(netlab.PortRestricted); r.hop() }}},
		{"another default route and back", false, 2 * time.Second, 0, []fault{
			func(r *roaming) { r.join.Do(func() { r.right.Join(r.other) }); r.right.RouteBy(r.other) },
			func(r *roaming) { r.right.RouteBy(r.right) },
		}},
		{"link down for 5 s", false, 2 * time.Second, 0, []fault{func(r *roaming) { cut(r.t, r.left, 5*time.Second) }}},
		{"link down for 60 s", true, 2 * time.Second, 0, []fault{func(r *roaming) { cut(r.t, r.left, time.Minute) }}},
		{"link down for 10 min", true, 2 * time.Second, 0, []fault{func(r *roaming) { cut(r.t, r.left, 10*time.Minute) }}},
		{"both stopped for 8 s", false, 3 * time.Second, 0, []fault{func(r *roaming) { r.stopBoth(8 * time.Second) }}},
		{"both stopped for 120 s", true, 3 * time.Second, 0, []fault{func(r *roaming) { r.stopBoth(2 * time.Minute) }}},
		{"rendezvous away for 5 s", false, 5 * time.Second, scpLimit / 2, []fault{func(r *roaming) { r.withoutRendezvous(5 * time.Second) }}},
		{"rendezvous away for 10 min", true, 5 * time.Second, scpSlow, []fault{func(r *roaming) { r.withoutRendezvous(10 * time.Minute) }}},
	} {
		t.Run(c.name, func(t *testing.T) {
			switch {
			case c.long:
				testtier.Full(t)
			case c.name != "another NAT of the sender":
				testtier.Long(t)
			}
			t.Parallel()
			r := newRoaming(newWorld(t), netlab.PortRestricted)
			if testtier.IsFull() {
				r.startSSH(scpSize, cmp.Or(c.speed, scpLimit), "--resume-timeout=15m")
			} else {
				r.start("--resume-timeout=15m")
			}
			n := times()
			if strings.HasSuffix(c.name, "10 min") {
				n = 1 // side by side in several runs
			}
			for i := range n {
				if i > 0 {
					time.Sleep(settle)
				}
				for _, fault := range c.faults {
					fault(r)
					r.back(c.limit)
				}
			}
			r.end()
		})
	}
}

// TestRoamSSH is one row of the full tier in the long one: both sides move while scp and ssh go on.
func TestRoamSSH(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	r := newRoaming(newWorld(t), netlab.PortRestricted)
	r.startSSH(12<<20, scpLimit)
	r.left.Move(r.other)
	r.right.Move(r.another)
	r.back(6 * time.Second)
	r.end()
}

// TestRoamFromHole: a session that a burst found a path for leaves the random NAT, and what the burst found with it.
func TestRoamFromHole(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	r := newRoaming(newWorld(t), netlab.PortRestricted)
	r.right = r.lab.Host(netlab.Symmetric, netlab.HostOptions{})
	r.start()
	r.right.Join(r.other)       // a further network changes nothing for what goes by the first,
	time.Sleep(5 * time.Second) // nor when the time is over in which a hole that is in doubt has to show that it lives
	r.back(time.Second)
	r.hop()
	r.back(3 * time.Second)
	r.end()
}

// TestRoamNarrow: a path begins to swallow packets of more than 1,250 bytes.
func TestRoamNarrow(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	// The emulated link takes apart what the kernel has not yet: the rule sees single packets.
	r := newRoaming(newWorld(t, netlab.WithUplink(netlab.LinkConfig{RateBits: 100e6, Delay: time.Millisecond})), netlab.PortRestricted)
	r.start()
	time.Sleep(time.Second) // until large packets are in use
	for _, h := range []*netlab.Host{r.left, r.right} {
		drop(t, h, "iifname", "wan", "meta", "l4proto", "udp", "meta", "length", ">", "1250")
	}
	r.back(3 * time.Second)
	r.end()
}

// TestRoamToRelay: a firewall closes the direct path; the relay has the session until it is open again.
func TestRoamToRelay(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	r := newRoaming(newRelayWorld(t), netlab.PortRestricted)
	if testtier.IsFull() {
		r.startSSH(scpSize, scpLimit/2) // there is to be something to copy to the last
	} else {
		r.start()
	}
	for i := range times() {
		if i > 0 {
			time.Sleep(settle)
		}
		r.toRelayAndBack()
	}
	if n := r.connecter.count("interrupted"); n > 0 {
		t.Errorf("%d times interrupted", n)
	}
	r.end()
}

func (r *roaming) toRelayAndBack() {
	t := r.t
	t.Helper()
	drop(t, r.left, "ip", "saddr", r.right.PublicAddr().String())
	drop(t, r.left, "ip", "daddr", r.right.PublicAddr().String())
	r.back(4 * time.Second)
	e, _ := r.connecter.await("up")
	for e.Path != "relay" {
		e, _ = r.connecter.await("up")
	}
	began := time.Now()
	heal(t, r.left)
	e, at := r.connecter.await("up")
	t.Logf("%s again after %.2f s", e.Path, at.Sub(began).Seconds())
	if e.Path != "direct" || at.Sub(began) > 15*time.Second {
		t.Errorf("%s after %v, want direct within 15 s", e.Path, at.Sub(began))
	}
	r.copying.flows(patience)
}

// TestRoamToSecondRelay: of two relays that the rendezvous hands out the one in use is killed.
func TestRoamToSecondRelay(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	w := &world{t: t, adit: adit(t), lab: netlab.New(t)}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("a secret that all relays know\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hub := w.lab.Public("rendezvous")
	var relays [2]*process
	var hosts [2]*netlab.Host
	args := []string{"--turn-secret", secret}
	for i := range relays {
		hosts[i] = w.lab.Public(fmt.Sprintf("relay%d", i))
		addr := hosts[i].Addr().String()
		relays[i] = w.run(hosts[i], "serve", "--http", addr+":8080", "--stun", addr+":3478", "--external-ip", addr,
			"--turn", "--turn-secret", secret, "--turn-allow", "198.51.100.0/24")
		relays[i].await("listening")
		args = append(args, "--turn-url", "turn:"+addr+":3478?transport=udp")
	}
	w.serve(hub, args...)
	r := newRoaming(w, netlab.Symmetric)
	r.start()
	var up event
	all, _, _ := r.connecter.events()
	for _, e := range all {
		if e.Name == "up" {
			up = e
		}
	}
	dead := -1
	for i, h := range hosts {
		if strings.Contains(up.Local+up.Remote, "relay "+h.Addr().String()) {
			relays[i].kill()
			dead = i
			break // the path may go through both
		}
	}
	if dead < 0 {
		t.Fatalf("the path goes through no relay: %s to %s", up.Local, up.Remote)
	}
	r.back(5 * time.Second)
	r.end()
}

// TestRoamToSameRelay: the only relay is restarted, and knows nobody's credentials any more.
func TestRoamToSameRelay(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	r := newRoaming(newRelayWorld(t), netlab.Symmetric)
	r.start()
	for i := range times() {
		if i > 0 {
			time.Sleep(settle)
		}
		r.server.kill()
		r.server.gone(patience)
		time.Sleep(time.Second)
		r.serveAgain()
		r.back(8 * time.Second)
	}
	r.end()
}

// TestRoamLoss: heavy loss for a while neither interrupts the session nor slows it down afterwards.
func TestRoamLoss(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	for _, c := range []struct {
		long bool
		d    time.Duration
	}{{false, 8 * time.Second}, {true, time.Minute}} {
		t.Run(c.d.String(), func(t *testing.T) {
			if c.long != testtier.IsFull() {
				t.Skip("one of the two is enough: the other belongs to the other tier")
			}
			r := newRoaming(newWorld(t, netlab.WithUplink(netlab.LinkConfig{RateBits: 10e6, Delay: 5 * time.Millisecond})), netlab.PortRestricted)
			if testtier.IsFull() {
				r.copying, r.exposer, r.connecter = r.copyBySSH(r.left, r.right, scpSize, 0, "-v")
			} else {
				r.copying, r.exposer, r.connecter = r.copyAt(r.left, r.right, 0, "-v")
			}
			time.Sleep(2 * time.Second)
			sample := 4 * time.Second
			if testtier.IsFull() {
				sample = 10 * time.Second // scp writes 255 KiB at a time: a fifth of a second's
			}
			before := r.copying.rate(sample)
			drop(t, r.left, "numgen", "random", "mod", "100", "<", "30")
			lossy := r.copying.rate(c.d)
			heal(t, r.left)
			time.Sleep(5 * time.Second)
			after := 0.0
			for range 2 { // the machine may have other things to do for a moment
				after = max(after, r.copying.rate(sample))
			}
			t.Logf("%.1f Mbit/s before, %.1f with 30 %% loss, %.1f five seconds after it", before*8/1e6, lossy*8/1e6, after*8/1e6)
			share := 0.5 // a busy machine changes its mind
			if testtier.IsFull() {
				share = 0.9
			}
			if after < share*before {
				t.Errorf("%.1f Mbit/s after the loss, %.1f before it", after*8/1e6, before*8/1e6)
			}
			for _, p := range []*process{r.exposer, r.connecter} {
				if n := p.count("interrupted"); n > 0 {
					t.Errorf("%s was interrupted %d times", p.label, n)
				}
			}
			r.end()
		})
	}
}

// TestGoodbyeByLetter: a side that ends while there is no path leaves word at the rendezvous.
func TestGoodbyeByLetter(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	r := newRoaming(newWorld(t), netlab.PortRestricted)
	r.copying, r.exposer, r.connecter = r.copyThrough(r.left, r.right, "-v")
	drop(t, r.left, "meta", "l4proto", "udp")
	r.connecter.await("interrupted")
	r.exposer.await("interrupted")
	r.exposer.interrupt()
	r.exposer.exits(130, patience)
	r.connecter.exits(0, patience)
	close(r.copying.stop)
	<-r.copying.sums
	<-r.copying.typist
}
