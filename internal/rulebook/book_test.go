package rulebook

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/config"
	"adit/internal/identity"
	"adit/tunnel"
)

const (
	keyOne = "adit1by5yrd2ehezflm5tbf6shvkokezj6xqw6b6y32yc4slodildzzwa"
	keyTwo = "adit1bxxtbsb3o4yeisjgxuz4em4x5hlw6lgkangsbivi73v6jarg3miq"
)

// book returns a Book whose command line offers port 22, the directory of its files, and what it says.
func book(t *testing.T, settings, peers string) (*Book, string, *strings.Builder) {
	t.Helper()
	root := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", root)
	dir := filepath.Join(root, "adit")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "config.toml", settings)
	put(t, dir, "peers.toml", peers)
	load := func() (config.File, error) { return config.Load("", nil) }
	file, err := load()
	if err != nil {
		t.Fatal(err)
	}
	said := new(strings.Builder)
	r, err := Open(Config{
		File: file, Load: load, Logger: slog.New(slog.DiscardHandler),
		Say: func(format string, args ...any) { fmt.Fprintf(said, format+"\n", args...) },
		Base: func(config.File) (tunnel.Policy, error) {
			return tunnel.Policy{Targets: []tunnel.Rule{tunnel.RuleOf(tunnel.Target{Host: "localhost", Port: 22})}}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, dir, said
}

// put replaces a file in one step, as adit and good editors do.
func put(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func peerTable(name, key, rules string) string {
	return "[peers." + name + "]\nkey = \"" + key + "\"\n" + rules + "\n"
}

func allows(g *tunnel.Gate, target string) bool { return g.Allows(tunnel.Local, target) == nil }

func TestRulebook(t *testing.T) {
	r, dir, _ := book(t, "[peers.bob]\nallow = [\"80\"]\n", peerTable("home", keyOne, "")+peerTable("bob", keyTwo, "allow = [\"443\"]\nstreams = 3"))
	code, endCode := r.Gate("", identity.PublicKey{}, nil)
	home, endHome := r.Gate("home", identity.PublicKey{}, nil)
	bob, endBob := r.Gate("bob", identity.PublicKey{}, nil)
	stranger, endStranger := r.Gate("carol", identity.PublicKey{}, nil)
	defer endCode()
	defer endHome()
	defer endStranger()
	for _, test := range []struct {
		name           string
		g              *tunnel.Gate
		ssh, web, safe bool
	}{
		{"by code: the command line", code, true, false, false},
		{"without rules: the command line", home, true, false, false},
		{"with rules: the config file goes before the file of peers", bob, false, true, false},
		{"unknown: nothing", stranger, false, false, false},
	} {
		if got := []bool{allows(test.g, "localhost:22"), allows(test.g, "localhost:80"), allows(test.g, "localhost:443")}; got[0] != test.ssh || got[1] != test.web || got[2] != test.safe {
			t.Errorf("%s: %v", test.name, got)
		}
	}
	if n := bob.Policy().MaxStreams; n != 3 {
		t.Errorf("bob may have %d streams, want those of the other file", n)
	}
	if got := strings.Join(r.Offers("bob"), " "); got != "localhost:80" {
		t.Errorf("bob is offered %q", got)
	}

	// What is wrong changes nothing.
	put(t, dir, "config.toml", "[peers.bob]\nallow = [\"x\"]\n")
	if err := r.Reload(nil); err == nil || !allows(bob, "localhost:80") {
		t.Errorf("a wrong rule: %v, and 80 is allowed: %v", err, allows(bob, "localhost:80"))
	}
	var conflict *identity.KeyChangedError
	put(t, dir, "config.toml", "[peers.bob]\nkey = \""+keyOne+"\"\n")
	if err := r.Reload(nil); err == nil || !errors.As(err, &conflict) || !allows(bob, "localhost:80") {
		t.Errorf("another key: %v", err)
	}

	// Nor is there half of it, where the rules are right and what else is checked is not.
	put(t, dir, "config.toml", "[peers.bob]\nallow = []\n")
	no := errors.New("no")
	if err := r.Reload(func(config.File, *identity.Peers) error { return no }); !errors.Is(err, no) || !allows(bob, "localhost:80") {
		t.Errorf("a check that fails: %v, and 80 is allowed: %v", err, allows(bob, "localhost:80"))
	}

	// What is right is in force for the sessions that are up.
	endBob()
	put(t, dir, "config.toml", "[peers.home]\nlocal = false\n[peers.bob]\nallow = []\n")
	if err := r.Reload(nil); err != nil {
		t.Fatal(err)
	}
	if allows(home, "localhost:22") || !allows(code, "localhost:22") {
		t.Error("home may still connect, or the others no more")
	}
	if !allows(bob, "localhost:80") {
		t.Error("the gate of a session that has ended was changed")
	}
	if err := identity.Remove(filepath.Join(dir, "peers.toml"), "home"); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "config.toml", "")
	if err := r.Reload(nil); err != nil {
		t.Fatal(err)
	}
	if allows(home, "localhost:22") {
		t.Error("a peer that was removed may still connect")
	}
}

// TestRulebookFollowsTheFile has another process pair with somebody while this one serves.
func TestRulebookFollowsTheFile(t *testing.T) {
	r, dir, said := book(t, "", peerTable("home", keyOne, ""))
	path := filepath.Join(dir, "peers.toml")
	two, err := identity.ParsePublicKey(keyTwo)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r.looked = time.Now()
		known := func(want string) {
			t.Helper()
			if p, _ := r.ByKey(two); p.Name != want {
				t.Errorf("the key is known as %q, want %q", p.Name, want)
			}
		}
		known("")
		if _, err := identity.Add(path, identity.Peer{Name: "bob", Key: two}); err != nil {
			t.Fatal(err)
		}
		known("bob") // who is not known may have been added just now
		put(t, dir, "peers.toml", peerTable("robert", keyTwo, ""))
		known("bob") // not looked at again so soon
		time.Sleep(bookAge)
		known("robert")
		put(t, dir, "peers.toml", peerTable("bob", keyTwo, ""))
		time.Sleep(bookAge)
		known("bob")
		put(t, dir, "peers.toml", "[peers.bob\n")
		time.Sleep(bookAge)
		known("bob")
		time.Sleep(bookAge)
		known("bob")
		if n := strings.Count(said.String(), "the known peers stay as they were"); n != 1 {
			t.Errorf("told %d times that the file is wrong, want once: %s", n, said)
		}
		put(t, dir, "peers.toml", "")
		time.Sleep(bookAge)
		known("")
	})
}

// TestRulebookForgets ends the sessions of peers that are known no more, once, and of nobody else.
func TestRulebookForgets(t *testing.T) {
	r, dir, _ := book(t, "", peerTable("home", keyOne, "")+peerTable("bob", keyTwo, ""))
	var one, two identity.PublicKey
	for text, k := range map[string]*identity.PublicKey{keyOne: &one, keyTwo: &two} {
		if err := k.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	ended := map[string]int{}
	enter := func(id, name string, key identity.PublicKey) {
		_, release := r.Gate(name, key, func() { ended[id]++ })
		t.Cleanup(release)
	}
	enter("code", "", identity.PublicKey{})
	enter("home", "home", one)
	enter("bob", "bob", two)
	check := func(step string, want map[string]int) {
		t.Helper()
		if err := r.Reload(nil); err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(ended, want) {
			t.Errorf("%s: ended %v, want %v", step, ended, want)
		}
	}
	check("nothing changed", map[string]int{})
	put(t, dir, "peers.toml", peerTable("house", keyOne, "allow = []")+peerTable("bob", keyTwo, ""))
	check("renamed", map[string]int{})
	put(t, dir, "peers.toml", peerTable("house", keyOne, ""))
	check("removed", map[string]int{"bob": 1})
	check("removed before", map[string]int{"bob": 1})
	put(t, dir, "peers.toml", peerTable("house", keyTwo, ""))
	check("another key", map[string]int{"bob": 1, "home": 1})
	enter("late", "home", one) // it was met before and comes up now
	check("late", map[string]int{"bob": 1, "home": 1, "late": 1})
}

// TestFreeName gives each peer that comes by code a name of its own, after a restart too.
func TestFreeName(t *testing.T) {
	r, dir, _ := book(t, "", peerTable("home", keyOne, ""))
	if got := r.FreeName("bob"); got != "bob" {
		t.Errorf("got %q, want the name as it is", got)
	}
	if got := r.FreeName("home"); got != "home-2" {
		t.Errorf("got %q, want the next of a name that is taken", got)
	}
	put(t, dir, "peers.toml", peerTable("home", keyOne, "")+peerTable("home-2", keyTwo, ""))
	if got := r.FreeName("home"); got != "home-3" {
		t.Errorf("got %q, want the one after that which was saved just now", got)
	}
}
