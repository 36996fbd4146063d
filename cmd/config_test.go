package cmd

import (
	"adit/internal/config"
	"adit/internal/fail"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

func newScreen() *ui {
	return &ui{out: new(strings.Builder), err: new(strings.Builder), width: func() int { return 80 }}
}

func testApp(t testing.TB) *cli.App {
	t.Helper()
	return newApp(newScreen())
}

func TestExampleConfig(t *testing.T) {
	b, err := os.ReadFile("../config.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	known := keys()
	if got, wrong := config.Parse(string(b), known); wrong != nil || len(got.Settings)+len(got.Peers)+len(got.Forwards) != 0 {
		t.Errorf("as it comes: %v, %v; want no settings", got, wrong)
	}
	whole := regexp.MustCompile(`(?m)^#([a-z_]+ = |\[)`).ReplaceAllString(string(b), "$1")
	got, wrong := config.Parse(whole, known)
	if wrong != nil {
		t.Fatalf("with every key in use: %v", wrong[0])
	}
	for k := range known {
		s, ok := got.Settings[k]
		if !ok {
			t.Errorf("the example lacks %s", k)
		} else if s.Line == 0 {
			t.Errorf("%s stands in no line", k)
		}
	}
	if len(got.Settings) != len(known) {
		t.Errorf("%d settings, want %d", len(got.Settings), len(known))
	}
	if len(got.Peers) != 1 || len(got.Forwards) != 1 {
		t.Fatalf("%d peers and %d forwards, want one of each", len(got.Peers), len(got.Forwards))
	}
	p, f := got.Peers[0], got.Forwards[0]
	if p.Key.IsZero() || p.Signal == nil || p.Allow == nil || p.Local == nil || p.Remote == nil || p.Dynamic == nil || p.Streams == nil {
		t.Errorf("the peer of the example lacks a key: %+v", p)
	}
	if f.Peer != p.Name || f.Texts.Local == nil || f.Texts.Remote == nil || f.Texts.Dynamic == nil {
		t.Errorf("the forward of the example lacks a key: %+v", f)
	}
}

// TestExampleDefaults: a value of the example is the default, or the comment above says what that is.
func TestExampleDefaults(t *testing.T) {
	b, err := os.ReadFile("../config.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^#([a-z_]+ = |\[)`).ReplaceAllString(string(b), "$1")
	file, wrong := config.Parse(text, keys())
	if wrong != nil {
		t.Fatal(wrong[0])
	}
	lines := strings.Split(text, "\n")
	seen := map[string]bool{}
	for _, c := range everyOptions() {
		for _, o := range c.options.list() {
			if o.key == "" || seen[o.key] {
				continue
			}
			seen[o.key] = true
			s := file.Settings[o.key]
			named, _, _ := strings.Cut(o.none, ":") // behind it is what that means
			byDefault := o.text()
			o.put(s.Value)
			if v := o.text(); v == named || v == byDefault || v == o.none {
				continue
			}
			said := false
			for at := s.Line - 2; at >= 0 && lines[at] != "" && !strings.HasPrefix(lines[at], "["); at-- {
				said = said || strings.Contains(lines[at], "Default: ")
			}
			if !said {
				t.Errorf("%s = %v: nothing says what the default is", o.key, s.Value)
			}
		}
	}
}

// TestGuide: the guide has a place for each command, and names each of its flags there or among the common ones.
func TestGuide(t *testing.T) {
	b, err := os.ReadFile("../docs/guide.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range describe(testApp(t)).Commands {
		if !regexp.MustCompile(`(?m)^### .*\b` + c.Name + `\b`).Match(b) {
			t.Errorf("the guide has no heading for %s", c.Name)
		}
		for _, f := range slices.Concat(c.Flags, c.Seldom) {
			named := func(name string) bool {
				return name != "" && regexp.MustCompile("[`( ]--?"+name+"([`, =]|$)").Match(b)
			}
			if !named(f.Name) && !named(f.Short) {
				t.Errorf("the guide does not name --%s of %s", f.Name, c.Name)
			}
		}
	}
}

// settled returns the options of "connect" with a command line.
func settled(t *testing.T, args ...string) (o *connectOptions, err error) {
	t.Helper()
	app := testApp(t)
	permuted, err := permute(app, append([]string{"connect"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	u := newScreen()
	c := command(u, cli.Command{Name: "connect"}, newConnectOptions, func(_ context.Context, _ *ui, got *connectOptions) error {
		o = got
		return nil
	})
	c.HideHelp = true
	app.Commands = []*cli.Command{c}
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	err = app.Run(append([]string{"adit"}, permuted...))
	return o, err
}

func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	if err := os.Mkdir(filepath.Join(dir, "adit"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := "ice.port = 1\ntimeout = \"1s\"\nice.stun = [\"file:1\"]\nsignal = \"https://file\"\njson = true\n[connect]\nlocal = [\"1\", \"2\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "adit", "config.toml"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ADIT_PORT", "2")
	t.Setenv("ADIT_STUN", "env:1,env:2")
	t.Setenv("ADIT_JSON", "false")
	o, err := settled(t, "--port", "3")
	if err != nil {
		t.Fatal(err)
	}
	if o.port != 3 {
		t.Errorf("port %d, want the flag's 3", o.port)
	}
	if got := strings.Join(o.servers, " "); got != "env:1 env:2" {
		t.Errorf("stun %q, want the variable's", got)
	}
	if o.json {
		t.Error("json is set by the file although the variable says false")
	}
	if o.signal != "https://file" || !o.fromFile("signal") {
		t.Errorf("signal %q, want the file's", o.signal)
	}
	if got := strings.Join(o.texts.Local, " "); got != "1 2" {
		t.Errorf("local %q, want the file's", got)
	}
	if o.timeout != time.Second {
		t.Errorf("timeout %s, want the file's", o.timeout)
	}
	if o, err = settled(t, "--stun", "flag:1"); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(o.stun, " "); got != "flag:1" {
		t.Errorf("stun %q, want the flag's alone", got)
	}
}

// TestReread: the file is read again; the command line and the default stay what they are.
func TestReread(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	file, wrong := config.Parse("timeout = \"5s\"\n[connect]\nlocal = [\"7\"]\nallow = [\"22\"]\n", keys())
	if wrong != nil {
		t.Fatal(wrong[0])
	}
	for args, want := range map[string]string{"": "7", "--local 8,9:host": "8,9:host"} {
		o, err := settled(t, strings.Fields(args)...)
		if err != nil {
			t.Fatal(err)
		}
		now, err := reread(o, file)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(now.texts.Local, " "); got != want || now.timeout != 5*time.Second || len(now.allow) != 1 {
			t.Errorf("%q: local %q, timeout %v, allow %q", args, got, now.timeout, now.allow)
		}
		again, err := reread(now, config.File{})
		if err != nil {
			t.Fatal(err)
		}
		if again.timeout != 0 || again.allow != nil || args == "" && again.texts.Local != nil {
			t.Errorf("%q: what left the file is still there: %+v", args, again)
		}
	}
}

func TestConfigFile(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	if _, err := settled(t); err != nil {
		t.Errorf("no file: %v", err)
	}
	path := filepath.Join(t.TempDir(), "x.toml")
	if _, err := settled(t, "--config", path); failureOf(err).Code != fail.Usage || !strings.Contains(err.Error(), "there is no config file") {
		t.Errorf("a named file that is not there: %v, want a usage failure that says so", err)
	}
	if err := os.WriteFile(path, []byte("\n[ice]\npirt = 1\n[serve]\nhttp = 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := settled(t, "--config", path)
	f := failureOf(err)
	if f == nil || f.Code != fail.Usage || f.Message != path+`:3: unknown key "pirt" in [ice]` || f.Hint != "did you mean port?" {
		t.Errorf("got %+v", f)
	} else if len(f.More) != 1 || f.More[0].Message != path+":5: serve.http is not a text in quotes" {
		t.Errorf("beside the first: %+v", f.More)
	}
}

// TestComplaints: all that is wrong is reported, with where it stands.
func TestComplaints(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	path := filepath.Join(t.TempDir(), "x.toml")
	if err := os.WriteFile(path, []byte("[ice]\npath = \"dirct\"\n[connect]\nlocal = [\"1\", \"x:y\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ADIT_PORT", "70000")
	t.Setenv("ADIT_TIMEOUT", "soon")
	_, err := settled(t, "--config", path, "--turn", "x", "-W", "localhost:22/udp")
	f := failureOf(err)
	if f == nil {
		t.Fatal("nothing is wrong")
	}
	var got []string
	for _, one := range append([]*fail.Failure{f}, f.More...) {
		got = append(got, one.Message)
	}
	for _, want := range []string{"$ADIT_TIMEOUT: \"soon\" is not a time", "$ADIT_PORT: 70000 is no port", path + `:2: ice.path: "dirct" is no choice`, "--turn ", path + ":4: connect.local: ", "-W joins standard input"} {
		if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
	if len(got) != 6 {
		t.Errorf("%d complaints: %q", len(got), got)
	}
}

// TestVariables holds the promise that each option has a variable and a key, but for those that say what to do once.
func TestVariables(t *testing.T) {
	seen := map[string]string{}
	for _, c := range everyOptions() {
		for _, o := range c.options.list() {
			if o.key == "" && o.name != "config" && !slices.Contains([]string{"key", "peers", "man"}, c.command) {
				t.Errorf("%s --%s has no key", c.command, o.name)
			}
			if (o.key == "") != (len(o.variables) == 0) && o.name != "config" {
				t.Errorf("%s --%s has a key or a variable without the other", c.command, o.name)
			}
			for _, v := range o.variables {
				if other, taken := seen[v]; taken && other != o.key {
					t.Errorf("%s and %s share %s", o.key, other, v)
				}
				seen[v] = o.key
			}
		}
	}
	for v, want := range map[string]string{
		"ADIT_SERVE_EXTERNAL_IP": "serve.external_ip", "ADIT_ALLOW_BENCH": "expose.allow_bench",
		"ADIT_EXPOSE_ALLOW_BENCH": "expose.allow_bench", "ADIT_STUN": "ice.stun", "ADIT_SERVE_STUN": "serve.stun",
	} {
		if got := seen[v]; got != want {
			t.Errorf("%s belongs to %q, want %q", v, got, want)
		}
	}
}

// TestMisspelt names variables that no option has.
func TestMisspelt(t *testing.T) {
	t.Setenv("ADIT_SINGAL", "paste")
	t.Setenv("ADIT_PORT", "1")
	got := misspelt()
	if len(got) != 1 || got[0].Message != "there is no variable $ADIT_SINGAL" || got[0].Hint != "did you mean $ADIT_SIGNAL?" {
		t.Errorf("got %+v", got)
	}
}

// TestUnreadableConfig has no command that follows the rules of the file go on without it.
func TestUnreadableConfig(t *testing.T) {
	for command, want := range map[string]bool{"expose": false, "connect": false, "pipe": false, "serve": false, "config": false, "doctor": true, "status": true} {
		if got := dispensable(command, fs.ErrPermission); got != want {
			t.Errorf("%s goes on without it: %v, want %v", command, got, want)
		}
	}
	if dispensable("doctor", fs.ErrInvalid) {
		t.Error("any error will do")
	}
}
