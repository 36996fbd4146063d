package acceptance

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// TestScreenBehindSSH has vim in "ssh home.adit" while another ssh uses the same session, one is refused, and the link
// goes down and up: the screen is byte for byte what it is with -q.
func TestScreenBehindSSH(t *testing.T) {
	testtier.Full(t)
	tool(t, "vim")
	t.Parallel()
	w := newWorld(t)
	r := newRoaming(w, netlab.PortRestricted)
	s := newSSHServer(t, r.left)
	home, laptop := w.keyholder(r.left), w.keyholder(r.right)
	home.knows(t, map[string]string{"laptop": laptop.key})
	laptop.knows(t, map[string]string{"home": home.key})
	p := home.run(w, "expose", "22", "--listen", "--signal", w.signal)
	p.await("reachable")
	s.write("text", "what is edited\n")

	loud := s.screen(t, w, r, laptop, "")
	quiet := s.screen(t, w, r, laptop, " -q")
	if loud != quiet {
		t.Errorf("the screen has\n%q\nand with -q\n%q", loud, quiet)
	}
	for _, word := range []string{"adit:", "connected", "interrupted", "refused"} {
		if strings.Contains(loud, word) {
			t.Errorf("%q is on the screen: %q", word, loud)
		}
	}
}

// screen returns what is on the terminal of vim behind ssh from the moment that it is there to the end.
func (s *sshServer) screen(t *testing.T, w *world, r *roaming, laptop *keyholder, more string) string {
	t.Helper()
	ssh := func(args ...string) []string {
		proxy := w.adit + " connect %n -W localhost:22 --signal " + w.signal + more
		return append(append([]string{"ssh"}, append(s.options(), "-o", "ProxyCommand="+proxy)...), args...)
	}
	x := newTerminal(t)
	seen := newRecord()
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := x.keys.Read(b)
			_, _ = seen.Write(b[:n]) // never fails
			if err != nil {
				return // the terminal is closed
			}
		}
	}()
	shows := func(from int, text string) int {
		t.Helper()
		limit := time.NewTimer(patience)
		defer limit.Stop()
		for {
			all, more := seen.look()
			if strings.Contains(all[from:], text) {
				return len(all)
			}
			select {
			case <-more:
			case <-limit.C:
				t.Fatalf("%q is not on the screen: %q", text, all[from:])
			}
		}
	}
	types := func(text string) {
		t.Helper()
		if _, err := x.keys.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	terminal := func(c *exec.Cmd) { c.Env = append(c.Env, "TERM=xterm") }
	vim := "exec vim -u NONE -i NONE -n " + filepath.Join(s.dir, "text")
	p := start(t, r.right, "ssh", ssh("-tt", "root@home.adit", vim), laptop.home, terminal, x.window(), x.attach(true))
	shows(0, "what is edited")
	types(":echo 'be'.'gin'\r")
	from := shows(0, "begin")

	command(t, r.right, ssh("root@home.adit", "true"), laptop.home)
	refused := start(t, r.right, "refused", []string{w.adit, "connect", "home.adit", "-W", "localhost:1", "--signal", w.signal}, laptop.home)
	refused.exits(6, patience)
	drop(t, r.left, "meta", "l4proto", "udp")
	time.Sleep(5 * time.Second) // three without an answer are an interruption
	heal(t, r.left)
	types(":echo 'ag'.'ain'\r")
	shows(from, "again")
	types(":q!\r")
	p.exits(0, patience)
	all, _ := seen.look()
	return all[from:]
}
