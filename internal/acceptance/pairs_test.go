//go:build unix

package acceptance

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// A pair is a way in which two machines are joined to the internet.
type pair struct {
	name  string
	hosts func(*netlab.Lab) (exposer, connecter *netlab.Host)
}

func behind(a, b netlab.NAT) pair {
	return pair{natural(a, b), func(l *netlab.Lab) (_, _ *netlab.Host) {
		return l.Host(a, netlab.HostOptions{}), l.Host(b, netlab.HostOptions{})
	}}
}

var pairs = []pair{
	behind(netlab.PortRestricted, netlab.PortRestricted),
	behind(netlab.Symmetric, netlab.FullCone),
	behind(netlab.FullCone, netlab.Symmetric),
	behind(netlab.None, netlab.None),
	{"the same LAN", func(l *netlab.Lab) (_, _ *netlab.Host) {
		h := l.Host(netlab.PortRestricted, netlab.HostOptions{})
		return h, l.SameLAN(h)
	}},
	{"one NAT, by its hairpin alone", func(l *netlab.Lab) (_, _ *netlab.Host) {
		h := l.Host(netlab.FullCone, netlab.HostOptions{})
		n := l.SameLAN(h)
		h.Hairpin()
		h.Isolate()
		n.Isolate()
		return h, n
	}},
}

// rounds is how often each pair must connect.
func rounds() int {
	if testtier.IsFull() {
		return 20
	}
	return 1
}

// TestPairs runs real ssh between hosts behind every pair of NATs, by code: through a forwarded port
// and as a proxy command.
func TestPairs(t *testing.T) {
	for i, p := range pairs {
		t.Run(p.name, func(t *testing.T) {
			if i > 0 {
				testtier.Long(t)
			}
			w := newWorld(t)
			left, right := p.hosts(w.lab)
			sshd := newSSHServer(t, left)
			target := fmt.Sprintf("localhost:%d", sshPort)
			var ups, all []time.Duration // to the path, and for a whole round
			for round := range rounds() {
				exposer, code := w.expose(left, target)
				began := time.Now()
				connecter, port := w.forward(right, code)
				ups = append(ups, time.Since(began))
				sshd.over(right, port)
				if i == 0 && round == 0 {
					sshd.copy(right, port, copyBytes())
				}
				ends(connecter, exposer)

				exposer, code = w.expose(left, target)
				sshd.by(right, w.adit, "connect", code, "--signal", w.signal, "-W", target, "--json", "--config", os.DevNull)
				exposer.exits(0, patience)
				all = append(all, time.Since(began))
			}
			t.Logf("%d of %d rounds; up after %s; a round took %s", len(ups), rounds(), spread(ups), spread(all))
		})
	}
}

// spread says what is usual and what is worst.
func spread(d []time.Duration) string {
	slices.Sort(d)
	return fmt.Sprintf("%d ms, at worst %d ms", d[len(d)/2].Milliseconds(), d[len(d)-1].Milliseconds())
}

// copyBytes is the size of the file that scp copies.
func copyBytes() int64 {
	switch {
	case testtier.IsFull():
		return 100e6
	case testtier.IsLong():
		return 20e6
	}
	return 4e6
}

// TestPaste meets without a server but STUN: each side's one line goes through a pipe to the other.
func TestPaste(t *testing.T) {
	for i, p := range pairs {
		if i == 2 {
			continue // the same NATs as before, the other way round
		}
		t.Run(p.name, func(t *testing.T) {
			if i > 0 {
				testtier.Long(t)
			}
			w := newWorld(t)
			left, right := p.hosts(w.lab)
			sshd := newSSHServer(t, left)
			for range rounds() {
				paste(t, w, sshd, left, right)
			}
		})
	}
}

// paste runs what a shell does for
//
//	mkfifo a b; adit expose 22 <a >b & adit connect -L 2222 >a <b
//
// The order of the redirections matters: opening a pipe waits for its other end.
func paste(t *testing.T, w *world, sshd *sshServer, left, right *netlab.Host) {
	t.Helper()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	command(t, left, []string{"mkfifo", a, b})
	const port = 2222
	options := fmt.Sprintf("--stun %s --config /dev/null", w.stun)
	exposer := start(t, left, "expose", []string{"sh", "-c",
		fmt.Sprintf("exec %s expose %d %s <%s >%s", w.adit, sshPort, options, a, b)})
	connecter := start(t, right, "connect", []string{"sh", "-c",
		fmt.Sprintf("exec %s connect -L %d %s >%s <%s", w.adit, port, options, a, b)})
	connecter.says("connected")
	exposer.says("connected")
	sshd.over(right, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port))
	words := func(p *process) string {
		p.says("words: ")
		_, rest, _ := strings.Cut(p.err.String(), "words: ")
		line, _, _ := strings.Cut(rest, "\n")
		return line
	}
	if x, y := words(exposer), words(connecter); x != y {
		t.Errorf("verification words: %q and %q", x, y)
	}
	ends(connecter, exposer)
}

// TestPasteToken holds a pasted line to its length. A host has one address of each family here and
// hears of one more.
func TestPasteToken(t *testing.T) {
	w := newWorld(t)
	h := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{IPv6: true})
	e, _ := w.run(h, "expose", "22", "--stun", w.stun).await("token")
	t.Logf("%d characters: %s", len(e.Token), e.Token)
	if len(e.Token) >= 350 {
		t.Errorf("a token of %d characters, want less than 350", len(e.Token))
	}
}
