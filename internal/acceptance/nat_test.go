//go:build unix

package acceptance

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// natKinds are those of the matrix in docs/nat.md, in its order.
var natKinds = []netlab.NAT{
	netlab.None, netlab.FullCone, netlab.AddressRestricted, netlab.PortRestricted,
	netlab.Symmetric, netlab.SymmetricSequential, netlab.CGNAT, netlab.UDPBlocked,
}

// telling are the pairs that say most, exposer first.
var telling = [][2]netlab.NAT{
	{netlab.None, netlab.Symmetric},
	{netlab.FullCone, netlab.SymmetricSequential},
	{netlab.AddressRestricted, netlab.Symmetric},
	{netlab.PortRestricted, netlab.CGNAT},
	{netlab.CGNAT, netlab.CGNAT},
	{netlab.PortRestricted, netlab.Symmetric},
	{netlab.Symmetric, netlab.PortRestricted},
	{netlab.Symmetric, netlab.CGNAT},
	{netlab.PortRestricted, netlab.SymmetricSequential},
	{netlab.SymmetricSequential, netlab.CGNAT},
	{netlab.SymmetricSequential, netlab.SymmetricSequential},
	{netlab.Symmetric, netlab.SymmetricSequential},
}

// natLimit is how long a pair of NATs may take: checks, and then a burst.
const natLimit = 45 * time.Second

// direct says whether a pair must find a path without a relay.
func direct(a, b netlab.NAT) bool {
	hard := func(k netlab.NAT) bool { return k == netlab.Symmetric || k == netlab.SymmetricSequential }
	switch {
	case a == netlab.UDPBlocked || b == netlab.UDPBlocked:
		return false
	case hard(a) && hard(b):
		return a == netlab.SymmetricSequential && b == netlab.SymmetricSequential
	}
	return true
}

// TestNATs meets by code between hosts behind each kind of NAT, without a relay. In the full tier it is
// the whole matrix, several times, and the log has the table of docs/nat.md.
func TestNATs(t *testing.T) {
	pairs, tries := telling, 1
	if testtier.IsFull() {
		pairs, tries = nil, 10
		for _, a := range natKinds {
			for _, b := range natKinds {
				pairs = append(pairs, [2]netlab.NAT{a, b})
			}
		}
	}
	var mu sync.Mutex
	cells := make(map[[2]netlab.NAT]string)
	// They wait, mostly: all may run at once. The table comes when the last has ended.
	t.Run("pairs", func(t *testing.T) {
		for _, p := range pairs {
			natPair(t, p, tries, func(cell string) {
				mu.Lock()
				defer mu.Unlock()
				cells[p] = cell
			})
		}
	})
	if testtier.IsFull() {
		t.Log("\n" + table(cells))
	}
}

func natPair(t *testing.T, p [2]netlab.NAT, tries int, tell func(cell string)) {
	t.Run(natural(p[0], p[1]), func(t *testing.T) {
		t.Parallel()
		if p != [2]netlab.NAT{netlab.PortRestricted, netlab.CGNAT} {
			testtier.Long(t)
		}
		n := tries
		if !direct(p[0], p[1]) {
			n = 1 // it takes half a minute to be sure
		}
		w := newWorld(t)
		left, right := w.lab.Host(p[0], netlab.HostOptions{}), w.lab.Host(p[1], netlab.HostOptions{})
		var ups []time.Duration
		for range n {
			if took, ok := w.meets(left, right); ok {
				ups = append(ups, took)
			}
		}
		cell := fmt.Sprintf("none of %d", n)
		if len(ups) > 0 {
			cell = fmt.Sprintf("%d of %d, %s", len(ups), n, spread(ups))
		}
		tell(cell)
		t.Log(cell)
		switch least := leastUps(p, n); {
		case !direct(p[0], p[1]) && len(ups) > 0:
			t.Error("there is a path where none should be")
		case len(ups) < least:
			t.Errorf("%d paths, want %d", len(ups), least)
		}
	})
}

// leastUps is how many of n tries must succeed: all, but for the birthday method.
func leastUps(p [2]netlab.NAT, n int) int {
	switch {
	case !direct(p[0], p[1]):
		return 0
	case p[0] == netlab.Symmetric || p[1] == netlab.Symmetric:
		return n - n/10
	}
	return n
}

// meets says whether the two connect, and how long that took from the moment the code was known.
func (w *world) meets(left, right *netlab.Host) (time.Duration, bool) {
	w.t.Helper()
	exposer, code := w.expose(left, "22")
	began := time.Now()
	connecter := w.connect(right, code)
	e, _ := connecter.awaitAny(natLimit, "up", "error")
	took := time.Since(began)
	if e.Name != "up" {
		w.t.Logf("after %d ms: %s; %s", took.Milliseconds(), e.Message, e.Hint)
		connecter.exits(4, patience)
		exposer.exits(4, patience+natLimit)
		return took, false
	}
	w.t.Logf("%s path after %d ms: %s to %s", e.Path, took.Milliseconds(), e.Local, e.Remote)
	ends(connecter, exposer)
	return took, true
}

// table writes the matrix as Markdown does.
func table(cells map[[2]netlab.NAT]string) string {
	var b strings.Builder
	b.WriteString("| exposer \\ connecter |")
	for _, k := range natKinds {
		fmt.Fprintf(&b, " %v |", k)
	}
	b.WriteString("\n|" + strings.Repeat("---|", len(natKinds)+1) + "\n")
	for _, x := range natKinds {
		fmt.Fprintf(&b, "| %v |", x)
		for _, y := range natKinds {
			fmt.Fprintf(&b, " %s |", cells[[2]netlab.NAT{x, y}])
		}
		b.WriteString("\n")
	}
	return b.String()
}

// TestNATsWithRelay is the matrix with a relay at the rendezvous, in the full tier: every pair is up soon, and
// by which path. What a burst finds later does not count here.
func TestNATsWithRelay(t *testing.T) {
	testtier.Full(t)
	const tries, soon = 10, 3 * time.Second
	var mu sync.Mutex
	cells := make(map[[2]netlab.NAT]string)
	t.Run("pairs", func(t *testing.T) {
		for _, a := range natKinds {
			for _, b := range natKinds {
				t.Run(natural(a, b), func(t *testing.T) {
					t.Parallel()
					w := newRelayWorld(t)
					left, right := w.lab.Host(a, netlab.HostOptions{}), w.lab.Host(b, netlab.HostOptions{})
					var ups []time.Duration
					var paths []string
					for range tries {
						exposer, code := w.expose(left, "22")
						began := time.Now()
						connecter := w.connect(right, code)
						e, _ := connecter.await("up")
						ups = append(ups, time.Since(began))
						if path := strings.TrimSpace(e.Path + " " + e.Transport); !slices.Contains(paths, path) {
							paths = append(paths, path)
						}
						ends(connecter, exposer)
					}
					cell := fmt.Sprintf("%s, %s", strings.Join(paths, " or "), spread(ups))
					if t.Log(cell); ups[len(ups)-1] > soon { // spread has sorted them
						t.Errorf("up after %v, want %v", ups, soon)
					}
					mu.Lock()
					defer mu.Unlock()
					cells[[2]netlab.NAT{a, b}] = cell
				})
			}
		}
	})
	t.Log("\n" + table(cells))
}

// TestFromRelay: two that need a burst are up through the relay meanwhile, and move over.
func TestFromRelay(t *testing.T) {
	testtier.Long(t)
	for _, p := range [][2]netlab.NAT{
		{netlab.PortRestricted, netlab.Symmetric},
		{netlab.SymmetricSequential, netlab.SymmetricSequential},
	} {
		t.Run(natural(p[0], p[1]), func(t *testing.T) {
			t.Parallel()
			w := newRelayWorld(t)
			left, right := w.lab.Host(p[0], netlab.HostOptions{}), w.lab.Host(p[1], netlab.HostOptions{})
			exposer, code := w.expose(left, "22")
			began := time.Now()
			connecter := w.connect(right, code)
			for _, path := range []string{"relay", "direct"} {
				e, _ := connecter.awaitFor("up", natLimit)
				t.Logf("%s path after %d ms: %s to %s", e.Path, time.Since(began).Milliseconds(), e.Local, e.Remote)
				if e.Path == "direct" {
					break // at once, by luck
				}
				if e.Path != path {
					t.Errorf("got a %s path, want %s", e.Path, path)
				}
			}
			ends(connecter, exposer)
		})
	}
}
