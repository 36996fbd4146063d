package cmd

import (
	"adit/internal/testtier"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A pty is a program on a pseudo terminal of 80 by 24.
type pty struct {
	t      *testing.T
	keys   *os.File
	cmd    *exec.Cmd
	screen *output
}

// onPTY starts a program on a terminal of its own.
func onPTY(t *testing.T, env []string, name string, args ...string) *pty {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("needs pseudo terminals: %v", err)
	}
	raw, err := keys.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	var failed error
	err = raw.Control(func(fd uintptr) {
		if failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); failed == nil {
			n, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
		if failed == nil {
			failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80})
		}
	})
	if err = errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &pty{t: t, keys: keys, screen: newOutput(), cmd: exec.Command(name, args...)}
	p.cmd.Env = env
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = tty, tty, tty
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = tty.Close() // the program has it
	read := make(chan struct{})
	go func() {
		defer close(read)
		b := make([]byte, 4096)
		for {
			n, err := keys.Read(b)
			_, _ = p.screen.Write(b[:n])
			if err != nil {
				return // the program has ended
			}
		}
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		_ = p.cmd.Wait()
		_ = keys.Close()
		<-read
	})
	return p
}

func (p *pty) types(text string) {
	p.t.Helper()
	if _, err := p.keys.WriteString(text); err != nil {
		p.t.Fatal(err)
	}
}

// shows waits until what is on the screen since a place has all of these, and returns where that ends.
func (p *pty) shows(from int, want ...string) int {
	p.t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		text, more := p.screen.read()
		missing := ""
		for _, w := range want {
			if !strings.Contains(text[from:], w) {
				missing = w
			}
		}
		if missing == "" {
			return len(text)
		}
		select {
		case <-more:
		case <-limit.C:
			p.t.Fatalf("%q does not appear in %q", missing, text[from:])
		}
	}
}

// TestCompletion presses the Tab key in the real shells.
func TestCompletion(t *testing.T) {
	testtier.Long(t)
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{bin, filepath.Join(dir, "adit")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(self, filepath.Join(bin, "adit")); err != nil { // TestMain is adit by that name
		t.Fatal(err)
	}
	peers := "[peers.homestead]\nkey = \"adit1by5yrd2ehezflm5tbf6shvkokezj6xqw6b6y32yc4slodildzzwa\"\n"
	if err := os.WriteFile(filepath.Join(dir, "adit", "peers.toml"), []byte(peers), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "new file.toml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "XDG_RUNTIME_DIR=" + dir, "TERM=dumb", "PS1=> ", "PROMPT=> "}
	for shell, load := range map[string][]string{
		"bash": {"bash", "--norc", "--noprofile", "-i"},
		"zsh":  {"zsh", "-f", "-i"},
	} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(shell); err != nil {
				t.Skip(err)
			}
			p := onPTY(t, env, load[0], load[1:]...)
			p.types("cd " + dir + "; source <(adit completion " + shell + "); echo rea''dy\n")
			at := p.shows(0, "ready")
			for _, test := range []struct{ typed, want string }{
				{"adit connect hom\t", "estead"},
				{"adit connect --path dir\t", "ect"},
				{"adit expose --log=js\t", "on"},
				{"adit service inst\t", "all"},
				{"adit service install -- con\t", "nect"},
				{"adit peers remove hom\t", "estead"},
				{"adit config check n\t", "file.toml"},
				{"adit connect 7341-orbit-copper-ladd\t", "er"},
				{"adit completion z\t", "sh"},
				{"adit connect --no-po\t", "rt-mapping"},
			} {
				p.types(test.typed)
				at = p.shows(at, test.want)
				p.types("\x15") // the line is gone
			}
		})
	}
	t.Run("fish", func(t *testing.T) {
		t.Parallel()
		if _, err := exec.LookPath("fish"); err != nil {
			t.Skip(err)
		}
		for line, want := range map[string]string{
			"adit connect hom": "homestead\ta known peer", "adit connect --path ": "direct", "adit service ": "uninstall",
			"adit peers remove ": "homestead", "adit config check n": "new file.toml", "adit connect 7341-orb": "7341-orbit",
			"adit con": "connect\tjoin a peer", "adit service install -- ser": "serve",
		} {
			c := exec.Command("fish", "--no-config", "-c", "adit completion fish | source; complete -C '"+line+"'")
			c.Env, c.Dir = env, dir
			out, err := c.CombinedOutput()
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("%q: %v, %q, want %q", line, err, out, want)
			}
		}
	})
}

// TestManPages has mandoc find nothing wrong with any page.
func TestManPages(t *testing.T) {
	pages := describe(testApp(t)).All("January 5, 2026")
	if len(pages) < 15 || pages["adit.1"] == "" || pages["adit-connect.1"] == "" || pages["adit.toml.5"] == "" {
		t.Errorf("%d pages", len(pages))
	}
	if _, err := exec.LookPath("mandoc"); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	for name, text := range pages {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, _ := exec.Command("mandoc", "-Tlint", "-Wstyle", path).CombinedOutput() // it fails for what is filtered here
		for line := range strings.Lines(string(out)) {
			if !strings.Contains(line, "referenced manual not found: Xr adit") { // they are not installed
				t.Errorf("%s: %s", name, line)
			}
		}
	}
}
