package cmd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

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
	keys := configKeys(testApp(t))
	if got, err := parseConfig(string(b), keys); err != nil || len(got.settings)+len(got.peers)+len(got.forwards) != 0 {
		t.Errorf("as it comes: %v, %v; want no settings", got, err)
	}
	whole := regexp.MustCompile(`(?m)^#([a-z_]+ = |\[)`).ReplaceAllString(string(b), "$1")
	got, err := parseConfig(whole, keys)
	if err != nil {
		t.Fatalf("with every key in use: %v", err)
	}
	for k := range keys {
		s, ok := got.settings[k]
		if !ok {
			t.Errorf("the example lacks %s", k)
		} else if s.line == 0 {
			t.Errorf("%s stands in no line", k)
		}
	}
	if len(got.settings) != len(keys) {
		t.Errorf("%d settings, want %d", len(got.settings), len(keys))
	}
	if len(got.peers) != 1 || len(got.forwards) != 1 {
		t.Fatalf("%d peers and %d forwards, want one of each", len(got.peers), len(got.forwards))
	}
	p, f := got.peers[0], got.forwards[0]
	if p.Key.IsZero() || p.Signal == nil || p.Allow == nil || p.Local == nil || p.Remote == nil || p.Dynamic == nil || p.Streams == nil {
		t.Errorf("the peer of the example lacks a key: %+v", p)
	}
	if f.peer != p.Name || f.local == nil || f.remote == nil || f.dynamic == nil {
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
	app := testApp(t)
	file, err := parseConfig(text, configKeys(app))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(text, "\n")
	seen := map[string]bool{}
	for _, c := range app.Commands {
		for _, f := range settings(c) {
			key := keyOf(c.Name, f.Names()[0])
			if seen[key] {
				continue
			}
			seen[key] = true
			d := f.(cli.DocGenerationFlag)
			s := file.settings[key]
			named, _, _ := strings.Cut(d.GetDefaultText(), ":") // behind it is what that means
			if v := strings.Join(s.values, ","); v == named || v == d.GetValue() || v == strings.Trim(d.GetDefaultText(), `"`) {
				continue
			}
			said := false
			for at := s.line - 2; at >= 0 && lines[at] != "" && !strings.HasPrefix(lines[at], "["); at-- {
				said = said || strings.Contains(lines[at], "Default: ")
			}
			if !said {
				t.Errorf("%s = %v: nothing says what the default is", key, s.values)
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
	for _, c := range testApp(t).Commands {
		if !regexp.MustCompile(`(?m)^### .*\b` + c.Name + `\b`).Match(b) {
			t.Errorf("the guide has no heading for %s", c.Name)
		}
		for _, f := range c.VisibleFlags() {
			named := func(name string) bool {
				return regexp.MustCompile("[`( ]--?" + name + "([`, =]|$)").Match(b)
			}
			if !slices.ContainsFunc(f.Names(), named) {
				t.Errorf("the guide does not name --%s of %s", f.Names()[0], c.Name)
			}
		}
	}
}

func TestConfigErrors(t *testing.T) {
	keys := configKeys(testApp(t))
	for _, test := range []struct {
		name, text, message, hint string
		line                      int
	}{
		{"unknown key", "timeout = \"1s\"\nsingal = \"paste\"\n", `unknown key "singal"`, "did you mean signal?", 2},
		{"unknown key in a table", "[serve]\n\nhtpp = \":1\"\n", `unknown key "htpp" in [serve]`, "did you mean http?", 3},
		{"unknown dotted key", "serve.htpp = \":1\"\n", `unknown key "htpp" in [serve]`, "did you mean http?", 1},
		{"key of another table", "http = \":1\"\n", `unknown key "http"`, "http belongs in the table [serve]", 1},
		{"common key in a table", "[connect]\ntimeout = \"3s\"\n", `unknown key "timeout" in [connect]`, "timeout belongs at the top of the file, in front of every [table]", 2},
		{"unknown table", "[conect]\nlocal = []\n", "unknown table [conect]", "did you mean [connect]?", 1},
		{"a table that has no flags", "[version]\n", "unknown table [version]", "config.example.toml shows every key", 1},
		{"wrong kind", "\n\n[ice]\nport = \"high\"\n", "ice.port is not a number", "config.example.toml shows every key", 4},
		{"no duration", "timeout = \"soon\"\n", `timeout is not a time like "30s"`, "config.example.toml shows every key", 1},
		{"mixed list", "ice.stun = [\"a:1\", 2]\n", "ice.stun is not a list of texts", "config.example.toml shows every key", 1},
		{"ice at the top", "port = 1\n", `unknown key "port"`, "port belongs in the table [ice]", 1},
		{"stun at the top", "stun = [\"a:1\"]\n", `unknown key "stun"`, "stun belongs in the table [ice]", 1},
		{"peer's key", "[peers.home]\nsingal = []\n", `unknown key "singal" in [peers.home]`, "did you mean signal?", 2},
		{"peer's name", "\n[peers.Home]\n", `not a name for a peer: "Home" does not begin with a lower-case letter`, "config.example.toml shows every key", 2},
		{"peer's rule", "[peers.home]\nallow = [\"22\", \"host\"]\n", `[peers.home]: allow: rule "host": it has no port; write a port, host:port, host:port-port, 10.0.0.0/8:port or unix:/path, for example localhost:22`, "config.example.toml shows every key", 1},
		{"peer's signal", "[peers.home]\nsignal = \"paste\"\n", `[peers.home]: "paste" is not the http(s) URL of a rendezvous`, "config.example.toml shows every key", 1},
		{"peers is no table", "peers = 1\n", "peers is not a table: write [peers.NAME]", "config.example.toml shows every key", 1},
		{"forward is no list", "[forward]\npeer = \"a\"\n", "forward is written [[forward]], once for each", "config.example.toml shows every key", 1},
		{"forward's key", "[[forward]]\npeer = \"a\"\nlocal = \"22\"\n[[forward]]\npeer = \"b\"\nloacl = \"22\"\n", `unknown key "loacl" in [[forward]]`, "did you mean local?", 6},
		{"forward without a peer", "[[forward]]\nlocal = \"22\"\n", "[[forward]] lacks the name of its peer", `for example: peer = "home"`, 1},
		{"forward of nothing", "[[forward]]\npeer = \"a\"\n", "[[forward]] forwards nothing", `for example: local = "2222:localhost:22"`, 1},
		{"forward of the wrong kind", "[[forward]]\npeer = \"a\"\nlocal = 22\n", "forward.local is not a list of texts", "config.example.toml shows every key", 3},
		{"forward that is none", "[[forward]]\npeer = \"a\"\nlocal = \"x\"\n", `[[forward]]: forward "x" has no port: write port, port:host:hostport or bind:port:host:hostport, for example 8080:localhost:80`, "config.example.toml shows every key", 1},
		{"no TOML", "port = \n", "", "see https://toml.io for how a TOML file is written", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseConfig(test.text, keys)
			var e *configError
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want a *configError", err)
			}
			if test.message != "" && e.message != test.message {
				t.Errorf("message %q, want %q", e.message, test.message)
			}
			if e.hint != test.hint {
				t.Errorf("hint %q, want %q", e.hint, test.hint)
			}
			if e.line != test.line {
				t.Errorf("line %d, want %d", e.line, test.line)
			}
		})
	}
}

// settled runs the settling of "connect" flags and returns what came out.
func settled(t *testing.T, args ...string) (c *cli.Context, err error) {
	t.Helper()
	app := testApp(t)
	app.Command("connect").Action = func(got *cli.Context) error {
		c = got
		return applyConfig(newScreen(), got)
	}
	permuted, err := permute(app, append([]string{"connect"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	err = app.Run(append([]string{"adit"}, permuted...))
	return c, err
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
	c, err := settled(t, "--port", "3")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Int("port"); got != 3 {
		t.Errorf("port %d, want the flag's 3", got)
	}
	if got := strings.Join(c.StringSlice("stun"), " "); got != "env:1 env:2" {
		t.Errorf("stun %q, want the variable's", got)
	}
	if c.Bool("json") {
		t.Error("json is set by the file although the variable says false")
	}
	if got := c.String("signal"); got != "https://file" {
		t.Errorf("signal %q, want the file's", got)
	}
	if got := strings.Join(c.StringSlice("local"), " "); got != "1 2" {
		t.Errorf("local %q, want the file's", got)
	}
	if got := c.Duration("timeout").String(); got != "1s" {
		t.Errorf("timeout %s, want the file's", got)
	}
	if c, err = settled(t, "--stun", "flag:1"); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.StringSlice("stun"), " "); got != "flag:1" {
		t.Errorf("stun %q, want the flag's alone", got)
	}
}

func TestConfigFile(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	if _, err := settled(t); err != nil {
		t.Errorf("no file: %v", err)
	}
	path := filepath.Join(t.TempDir(), "x.toml")
	if _, err := settled(t, "--config", path); failureOf(err).code != exitUsage {
		t.Errorf("a named file that is not there: %v, want a usage failure", err)
	}
	if err := os.WriteFile(path, []byte("\n[ice]\npirt = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := settled(t, "--config", path)
	f := failureOf(err)
	if f == nil || f.code != exitUsage || f.message != path+`:3: unknown key "pirt" in [ice]` || f.hint != "did you mean port?" {
		t.Errorf("got %+v", f)
	}
	if err := os.WriteFile(path, make([]byte, configBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := settled(t, "--config", path); failureOf(err).code != exitUsage {
		t.Errorf("a huge file: %v, want a usage failure", err)
	}
}

// TestVariables holds the promise that each flag has a variable and a key.
func TestVariables(t *testing.T) {
	seen := map[string]string{}
	for _, c := range testApp(t).Commands {
		for _, f := range settings(c) {
			d, ok := f.(cli.DocGenerationFlag)
			if !ok || len(d.GetEnvVars()) == 0 {
				t.Errorf("%s --%s has no variable of its own", c.Name, f.Names()[0])
				continue
			}
			key := keyOf(c.Name, f.Names()[0])
			for _, v := range d.GetEnvVars() {
				if other, taken := seen[v]; taken && other != key {
					t.Errorf("%s and %s share %s", key, other, v)
				}
				seen[v] = key
			}
		}
	}
	if got := seen["ADIT_SERVE_EXTERNAL_IP"]; got != "serve.external_ip" {
		t.Errorf("ADIT_SERVE_EXTERNAL_IP belongs to %q", got)
	}
	for _, v := range []string{"ADIT_ALLOW_BENCH", "ADIT_EXPOSE_ALLOW_BENCH"} {
		if got := seen[v]; got != "expose.allow_bench" {
			t.Errorf("%s belongs to %q", v, got)
		}
	}
	if got := seen["ADIT_STUN"]; got != "ice.stun" {
		t.Errorf("ADIT_STUN belongs to %q", got)
	}
}

func FuzzConfig(f *testing.F) {
	b, err := os.ReadFile("../config.example.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b))
	f.Add("ice.port = 1\n[serve]\nhttp = \":1\"\n")
	f.Add("serve.http = 1\n[[serve]]\n")
	f.Add("[peers.a]\nallow = [\"22\"]\n[[forward]]\npeer = \"a\"\nlocal = \"1\"\n")
	f.Add("[connect]\nlocal = [[1]]\n\"a.b\" = 2020-01-01\n")
	keys := configKeys(testApp(f))
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseConfig(text, keys)
		var e *configError
		if err != nil && (!errors.As(err, &e) || e.line < 0) {
			t.Errorf("got %#v, want a *configError with a line", err)
		}
		for k, s := range got.settings {
			if _, known := keys[k]; !known || s.line < 0 {
				t.Errorf("setting %q in line %d", k, s.line)
			}
		}
	})
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
