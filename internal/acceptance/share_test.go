//go:build unix

package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// config writes the ssh configuration that the guide has, for this server, and returns ssh's arguments.
func (s *sshServer) config(adit string) string {
	s.write("config", fmt.Sprintf(`Host *.adit
    ProxyCommand %s connect %%n -W localhost:%d
    User %s
    IdentityFile %s
    IdentitiesOnly yes
    UserKnownHostsFile %s
    HostKeyAlias exposed
    StrictHostKeyChecking yes
    BatchMode yes
`, adit, sshPort, s.user, s.file("user"), s.file("known_hosts")))
	return s.file("config")
}

// TestShared: with Host *.adit in its configuration, ssh, git and rsync use the session of a connect that
// runs, and are there in one round trip.
func TestShared(t *testing.T) {
	testtier.Long(t)
	const trip = 2 * oneWay
	l := netlab.New(t)
	left, right := l.Link(netlab.LinkConfig{RateBits: 100e6, Delay: oneWay})
	w := &world{t: t, adit: adit(t), lab: l}
	w.serve(left)
	s := newSSHServer(t, left)
	config := s.config(w.adit)
	exposer, code := w.expose(left, fmt.Sprint(sshPort))
	connecter, _ := w.forward(right, code, "--share", "home")

	// What ssh waits for first is the server's banner: the process's start and one round trip.
	best := time.Hour
	for range 5 {
		began := time.Now()
		p := start(t, right, "connect", []string{w.adit, "connect", "home", "-W", fmt.Sprintf("localhost:%d", sshPort)}, stdin(never(t)))
		p.prints("SSH-2.0-")
		best = min(best, time.Since(began))
		p.stop()
	}
	t.Logf("a stream over a running session: the first byte after %v, of which %v are a round trip", best, trip)
	if limit := 150 * time.Millisecond; best > 10*limit || testtier.IsFull() && best > limit {
		t.Errorf("the first byte came after %v", best)
	}

	began := time.Now()
	if out := command(t, right, []string{"ssh", "-F", config, "home.adit", "echo out of $((6*7))"}); out != "out of 42\n" {
		t.Errorf("ssh printed %q", out)
	}
	t.Logf("ssh with a running session: a command has run after %v", time.Since(began))

	t.Run("git", func(t *testing.T) {
		tool(t, "git")
		from, to := filepath.Join(s.dir, "repository"), filepath.Join(s.dir, "clone")
		command(t, left, []string{"git", "init", "-q", from})
		want := writeRandom(t, filepath.Join(from, "file"), 1<<20)
		command(t, left, []string{"git", "-C", from, "add", "file"})
		command(t, left, []string{"git", "-C", from, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "file"})
		began := time.Now()
		command(t, right, []string{"git", "-c", "core.sshCommand=ssh -F " + config, "clone", "-q", "ssh://home.adit" + from, to})
		t.Logf("git clone of 1 MiB: %v", time.Since(began))
		if sumFile(t, filepath.Join(to, "file")) != want {
			t.Error("another file")
		}
	})
	t.Run("rsync", func(t *testing.T) {
		tool(t, "rsync")
		from, to := filepath.Join(s.dir, "tree"), filepath.Join(s.dir, "copy")
		if err := os.Mkdir(from, 0o700); err != nil {
			t.Fatal(err)
		}
		want := writeRandom(t, filepath.Join(from, "file"), 1<<20)
		began := time.Now()
		command(t, right, []string{"rsync", "-a", "-e", "ssh -F " + config, from + "/", "home.adit:" + to})
		t.Logf("rsync of 1 MiB: %v", time.Since(began))
		if sumFile(t, filepath.Join(to, "file")) != want {
			t.Error("another file")
		}
	})
	ends(connecter, exposer)
}

// TestCold: without a session ssh by a proxy command gets its prompt soon, the meeting included.
func TestCold(t *testing.T) {
	testtier.Long(t)
	l := netlab.New(t)
	left, right := l.Link(netlab.LinkConfig{RateBits: 100e6, Delay: oneWay})
	w := &world{t: t, adit: adit(t), lab: l}
	w.serve(left)
	s := newSSHServer(t, left)
	exposer, code := w.expose(left, fmt.Sprint(sshPort))
	args := append([]string{"ssh", "-o", "ProxyCommand=" + strings.Join([]string{w.adit, "connect", code, "-W", fmt.Sprintf("localhost:%d", sshPort), "--signal", w.signal, "--config", os.DevNull}, " ")}, s.options()...)
	began := time.Now()
	if out := command(t, right, append(args, s.user+"@exposed", "echo out of $((6*7))")); out != "out of 42\n" {
		t.Errorf("ssh printed %q", out)
	}
	took := time.Since(began)
	t.Logf("ssh from cold at %v each way: a command has run after %v", oneWay, took)
	if limit := 3 * time.Second; took > 10*limit || testtier.IsFull() && took > limit { // 1.5 s on a machine with nothing else to do
		t.Errorf("ssh took %v", took)
	}
	exposer.exits(0, patience)
}

// TestColdByKey: the same with a machine that is known by its key and listens.
func TestColdByKey(t *testing.T) {
	testtier.Long(t)
	l := netlab.New(t)
	left, right := l.Link(netlab.LinkConfig{RateBits: 100e6, Delay: oneWay})
	w := &world{t: t, adit: adit(t), lab: l}
	w.serve(left)
	s := newSSHServer(t, left)
	home, away := w.keyholder(left), w.keyholder(right)
	home.knows(t, map[string]string{"away": away.key})
	away.knows(t, map[string]string{"home": home.key})
	exposer := home.run(w, "expose", fmt.Sprint(sshPort), "--listen", "--signal", w.signal)
	exposer.await("reachable")
	best := time.Hour
	for range 3 {
		began := time.Now()
		if out := command(t, right, append([]string{"ssh", "-o", "ProxyCommand=" + w.adit + " connect %n -W localhost:22 --config /dev/null --signal " + w.signal}, append(s.options(), s.user+"@home.adit", "echo out of $((6*7))")...), away.home); out != "out of 42\n" {
			t.Errorf("ssh printed %q", out)
		}
		best = min(best, time.Since(began))
	}
	t.Logf("ssh from cold to a known machine at %v each way: a command has run after %v", oneWay, best)
	if limit := 1500 * time.Millisecond; best > 10*limit || testtier.IsFull() && best > limit {
		t.Errorf("ssh took %v", best)
	}
}

// never returns an input that neither gives anything nor ends.
func never(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r
}
