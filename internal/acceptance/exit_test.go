//go:build unix

package acceptance

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
	"adit/signal"
)

// The exit codes of adit.
const (
	exitSignal  = 3
	exitNoPath  = 4
	exitAuth    = 5
	exitRefused = 6
	exitListen  = 7
	exitGone    = 8
	exitTimeout = 124
)

// goneLimit is how long a peer may take to notice that the other one is no more.
const goneLimit = 60 * time.Second

// TestWrongCode: a wrong guess burns the code, and both sides say so.
func TestWrongCode(t *testing.T) {
	w := newWorld(t)
	left, right := w.lab.Host(netlab.None, netlab.HostOptions{}), w.lab.Host(netlab.None, netlab.HostOptions{})
	exposer, code := w.expose(left, "22")
	other, otherCode := w.expose(left, "22")
	plate, _, _ := strings.Cut(code, "-")
	_, words, _ := strings.Cut(otherCode, "-")

	joiner := w.connect(right, plate+"-"+words)
	joiner.fails(exitAuth, patience)
	exposer.fails(exitAuth, patience)
	w.connect(right, code).fails(exitAuth, patience) // the right words come too late

	// The other code has not suffered.
	joiner, _ = w.forward(right, otherCode)
	ends(joiner, other)
}

// TestSecondJoiner: a code works once.
func TestSecondJoiner(t *testing.T) {
	w := newWorld(t)
	left, right := w.lab.Host(netlab.None, netlab.HostOptions{}), w.lab.Host(netlab.None, netlab.HostOptions{})
	echo := listen(t, left, func(c net.Conn) { _, _ = io.Copy(c, c) })
	exposer, code := w.expose(left, echo.String())
	first, port := w.forward(right, code)
	w.connect(right, code).fails(exitAuth, patience)
	if err := echoed(dial(t, right, port), 1, 1000); err != nil {
		t.Errorf("the first joiner, after the second: %v", err)
	}
	ends(first, exposer)
}

// TestExpired: what was valid once is refused by name.
func TestExpired(t *testing.T) {
	t.Run("line", func(t *testing.T) {
		w := newWorld(t)
		offer := signal.Message{Kind: signal.KindOffer, Expires: time.Now().Add(-time.Hour), Body: make([]byte, 100)}
		token, err := offer.Token()
		if err != nil {
			t.Fatal(err)
		}
		r, _ := input(t, token)
		e := w.runWith(w.lab.Public("late"), []setting{stdin(r)}, "connect", "--stun", "none").fails(exitSignal, patience)
		if !strings.Contains(e.Message, "expired") {
			t.Errorf("an expired line: %q", e.Message)
		}
	})
	t.Run("code", func(t *testing.T) {
		testtier.Full(t)
		w := newWorld(t)
		h := w.lab.Public("late")
		exposer, code := w.expose(h, "22")
		if e := exposer.fails(exitSignal, 11*time.Minute); !strings.Contains(e.Message, "expired") {
			t.Errorf("an expired code: %q", e.Message)
		}
		w.connect(h, code).fails(exitSignal, patience)
	})
}

// input makes a standard input that holds one line and stays open.
func input(t testing.TB, line string) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	if _, err := io.WriteString(w, line+"\n"); err != nil {
		t.Fatal(err)
	}
	return r, w
}

// TestTimeout: a peer that never answers costs what --timeout says, at every stage.
func TestTimeout(t *testing.T) {
	testtier.Long(t)
	const limit = 2 * time.Second
	w := newWorld(t)
	left, right := w.lab.Host(netlab.None, netlab.HostOptions{}), w.lab.Host(netlab.None, netlab.HostOptions{})
	timeout := "--timeout=" + limit.String()

	nobody := w.run(left, "expose", "22", "--signal", w.signal, timeout)

	exposer := w.run(left, "expose", "22", "--stun", w.stun)
	offer, _ := exposer.await("token")
	exposer.kill()
	exposer.gone(patience)
	r, _ := input(t, offer.Token)
	pasted := w.runWith(right, []setting{stdin(r)}, "connect", "--stun", w.stun, timeout)

	silent, code := w.expose(left, "22")
	silent.pause()
	joiner := w.connect(right, code, timeout)

	for _, p := range []*process{nobody, pasted, joiner} {
		began := p.out.began
		p.fails(exitTimeout, patience)
		if took := time.Since(began); took < limit {
			t.Errorf("%s gave up after %v", p.label, took)
		}
	}
}

// TestRefused: what the exposer does not offer, or does not reach, ends -W with a code of its own.
func TestRefused(t *testing.T) {
	w := newWorld(t)
	left, right := w.lab.Host(netlab.None, netlab.HostOptions{}), w.lab.Host(netlab.None, netlab.HostOptions{})
	for _, c := range []struct{ name, target string }{
		{"not offered", "127.0.0.1:23"},
		{"nobody listens", "127.0.0.1:22"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := w.in(t)
			_, code := w.expose(left, "127.0.0.1:22")
			r, _ := input(t, "hello")
			joiner := w.runWith(right, []setting{stdin(r)}, "connect", code, "--signal", w.signal, "-W", c.target)
			joiner.fails(exitRefused, patience)
			if out := joiner.out.String(); out != "" {
				t.Errorf("standard output got %q", out)
			}
		})
	}
}

// TestPortInUse: a local port that is taken is noticed before the code is spent.
func TestPortInUse(t *testing.T) {
	w := newWorld(t)
	left, right := w.lab.Host(netlab.None, netlab.HostOptions{}), w.lab.Host(netlab.None, netlab.HostOptions{})
	exposer, code := w.expose(left, "22")
	taken := listen(t, right, func(net.Conn) {})
	w.connect(right, code, "-L", fmt.Sprint(taken.Port())).fails(exitListen, patience)
	joiner, _ := w.forward(right, code)
	ends(joiner, exposer)
}

// TestGoodbye: a side that is asked to end tells the other one.
func TestGoodbye(t *testing.T) {
	w := newWorld(t)
	left, right := w.lab.Host(netlab.None, netlab.HostOptions{}), w.lab.Host(netlab.None, netlab.HostOptions{})
	exposer, code := w.expose(left, "22")
	joiner, _ := w.forward(right, code)
	exposer.interrupt()
	exposer.exits(130, within(5*time.Second))
	joiner.exits(0, within(5*time.Second))
}

// TestKilled: a side that is no more is noticed by the other one, whichever it is: soon where something is
// being sent, and within the time of a few keepalives where nothing is.
func TestKilled(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	const soon, late = 5 * time.Second, 30 * time.Second // until "interrupted"
	const resume = "--resume-timeout=10s"
	w := newWorld(t)
	left, right := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}), w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})

	deadExposer, code := w.expose(left, listen(t, left, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }).String())
	busy, port := w.forward(right, code, resume)
	idle, code := w.expose(left, resume, "22")
	deadConnecter, _ := w.forward(right, code)

	c := dial(t, right, port)
	written := make(chan error, 1)
	go func() {
		_ = c.SetWriteDeadline(time.Now().Add(3 * goneLimit))
		for { // until the tunnel takes no more, and then until it is reset
			if _, err := c.Write(pattern[:100]); err != nil {
				written <- err
				return
			}
		}
	}()
	deadExposer.kill()
	deadConnecter.kill()
	began := time.Now()
	for _, x := range []struct {
		name  string
		p     *process
		limit time.Duration
	}{{"busy", busy, soon}, {"idle", idle, late}} {
		_, at := x.p.awaitFor("interrupted", goneLimit)
		t.Logf("%s: interrupted after %.1f s", x.name, at.Sub(began).Seconds())
		if at.Sub(began) > x.limit {
			t.Errorf("%s: interrupted only after %v", x.name, at.Sub(began))
		}
		e := x.p.fails(exitGone, goneLimit)
		t.Logf("%s: gone after %.1f s: %s", x.name, time.Since(began).Seconds(), e.Message)
	}
	if err := <-written; errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection through the tunnel outlived it: %v", err)
	}
}

// TestNoPath: where no path is to be had, both sides say so. Two NATs that allot ports at random cannot be
// punched through, nor by chance: docs/nat.md.
func TestNoPath(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	w := newWorld(t)
	left, right := w.lab.Host(netlab.Symmetric, netlab.HostOptions{}), w.lab.Host(netlab.Symmetric, netlab.HostOptions{})
	exposer, code := w.expose(left, "22")
	joiner := w.connect(right, code)
	began := time.Now()
	joiner.fails(exitNoPath, goneLimit)
	exposer.fails(exitNoPath, goneLimit)
	t.Logf("no path after %.1f s", time.Since(began).Seconds())
}
