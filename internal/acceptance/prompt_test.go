//go:build unix

package acceptance

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// TestPrompt: how long ssh takes until there is a prompt, at 20 ms each way: to the server itself, through a session that
// runs, and over one connection of ssh's own that runs through that session, as the guide has it.
func TestPrompt(t *testing.T) {
	testtier.Long(t)
	const trip = 2 * oneWay
	runs := 3
	if testtier.IsFull() {
		runs = 7
	}
	l := netlab.New(t)
	left, right := l.Link(netlab.LinkConfig{RateBits: 100e6, Delay: oneWay})
	w := &world{t: t, adit: adit(t), lab: l}
	w.serve(left)
	s := newSSHServer(t, left)
	config := s.config(w.adit)
	exposer, code := w.expose(left, fmt.Sprint(sshPort))
	connecter, port := w.forward(right, code, "--share", "home")

	ssh := append([]string{"ssh"}, s.options()...)
	to := s.user + "@" + left.Addr().String()
	keep := []string{"-o", "ControlMaster=auto", "-o", "ControlPath=" + s.file("%C"), "-o", "ControlPersist=10m"}
	kept := append([]string{"ssh", "-F", config}, append(keep, "home.adit")...)
	keptDirect := append(slices.Concat(ssh, keep), to)
	for _, args := range [][]string{kept, keptDirect} {
		command(t, right, append(slices.Clone(args), "true"))
	}
	best := [5]time.Duration{time.Hour, time.Hour, time.Hour, time.Hour, time.Hour}
	for range runs { // in turns, so that all see the same machine
		for i, args := range [][]string{
			append(slices.Clone(ssh), to),
			append(slices.Clone(ssh), "-p", fmt.Sprint(port.Port()), s.user+"@"+port.Addr().String()),
			{"ssh", "-F", config, "home.adit"},
			kept,
			keptDirect,
		} {
			best[i] = min(best[i], prompt(t, right, args).Round(time.Millisecond))
		}
	}
	direct, forwarded, running, shared := best[0], best[1], best[2], best[3]
	t.Logf("there is a prompt, %v a round trip: to the server itself %v, through a forwarded port %v, by a running session %v; over a connection of ssh's own through it %v, and without adit %v",
		trip, direct, forwarded, running, shared, best[4])
	if testtier.IsFull() && running > direct+trip {
		t.Errorf("through a running session ssh takes %v, to the server itself %v", running, direct)
	}
	if testtier.IsFull() && shared > max(150*time.Millisecond, best[4]+best[4]/4) {
		t.Errorf("over a connection of its own ssh takes %v, want 150 ms or what it takes without adit, %v", shared, best[4])
	}
	for _, args := range [][]string{kept, keptDirect} {
		command(t, right, slices.Concat(args[:len(args)-1], []string{"-O", "exit"}, args[len(args)-1:]))
	}
	ends(connecter, exposer)
}

// prompt runs ssh with a terminal and returns after what time its shell says something.
func prompt(t *testing.T, h *netlab.Host, args []string) time.Duration {
	t.Helper()
	began := time.Now()
	p := start(t, h, "ssh", append(slices.Clone(args), "-tt", "echo out of $((6*7))"))
	p.prints("out of 42")
	took := time.Since(began)
	p.exits(0, patience)
	return took
}
