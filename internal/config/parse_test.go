package config

import (
	"os"
	"strings"
	"testing"
)

// someKeys are some of those that adit's options have.
func someKeys() map[string]Kind {
	return map[string]Kind{
		"signal": String, "timeout": Duration, "json": Bool, "ice.port": Int, "ice.stun": List, "ice.path": String,
		"serve.http": String, "serve.stun": String, "connect.local": List, "expose.local": List,
	}
}

func TestConfigErrors(t *testing.T) {
	keys := someKeys()
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
			_, wrong := Parse(test.text, keys)
			if len(wrong) != 1 {
				t.Fatalf("%d errors, want one: %v", len(wrong), wrong)
			}
			e := wrong[0]
			if test.message != "" && e.Message != test.message {
				t.Errorf("message %q, want %q", e.Message, test.message)
			}
			if e.Hint != test.hint {
				t.Errorf("hint %q, want %q", e.Hint, test.hint)
			}
			if e.Line != test.line {
				t.Errorf("line %d, want %d", e.Line, test.line)
			}
		})
	}
}

// TestAllErrors: each error is there, in the order of the lines.
func TestAllErrors(t *testing.T) {
	_, wrong := Parse("singal = 1\n[ice]\nport = \"x\"\n[[forward]]\npeer = \"a\"\n[peers.home]\nallow = [\"host\"]\n[conect]\n", someKeys())
	var got []string
	for _, e := range wrong {
		got = append(got, e.Message)
	}
	want := []string{`unknown key "singal"`, "ice.port is not a number", "[[forward]] forwards nothing", "[peers.home]: allow: ", "unknown table [conect]"}
	if len(got) != len(want) {
		t.Fatalf("got %q, want %d", got, len(want))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("error %d is %q, want %q", i, got[i], want[i])
		}
	}
}

func TestForwardsFor(t *testing.T) {
	file, wrong := Parse("[[forward]]\npeer = \"a\"\nlocal = \"1\"\n[[forward]]\npeer = \"b\"\nlocal = \"2\"\n[[forward]]\npeer = \"a\"\nlocal = [\"3\"]\nremote = \"4:localhost:4\"\ndynamic = \"5\"\n", someKeys())
	if wrong != nil {
		t.Fatal(wrong[0])
	}
	f := file.ForwardsFor("a")
	if l, r, d := strings.Join(f.Local, " "), strings.Join(f.Remote, " "), strings.Join(f.Dynamic, " "); l != "1 3" || r != "4:localhost:4" || d != "5" {
		t.Errorf("got %q, %q, %q", l, r, d)
	}
	if !file.ForwardsFor("c").Empty() {
		t.Error("a peer without forwards has some")
	}
}

// TestHuge bounds what is read.
func TestHuge(t *testing.T) {
	path := t.TempDir() + "/x.toml"
	if err := os.WriteFile(path, make([]byte, maxBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, nil); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

func FuzzConfig(f *testing.F) {
	b, err := os.ReadFile("../../config.example.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b))
	f.Add("ice.port = 1\n[serve]\nhttp = \":1\"\n")
	f.Add("serve.http = 1\n[[serve]]\n")
	f.Add("[peers.a]\nallow = [\"22\"]\n[[forward]]\npeer = \"a\"\nlocal = \"1\"\n")
	f.Add("[connect]\nlocal = [[1]]\n\"a.b\" = 2020-01-01\n")
	keys := someKeys()
	f.Fuzz(func(t *testing.T, text string) {
		got, wrong := Parse(text, keys)
		for i, e := range wrong {
			if e.Line < 0 || e.Message == "" || e.Hint == "" || i > 0 && e.Line < wrong[i-1].Line {
				t.Errorf("error %d: %#v", i, e)
			}
		}
		for k, s := range got.Settings {
			if kind, known := keys[k]; !known || s.Line < 0 || s.Value == nil {
				t.Errorf("setting %q, %v, in line %d: %v", k, kind, s.Line, s.Value)
			}
		}
	})
}
