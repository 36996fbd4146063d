package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// keyOf returns the public key of the n-th of many.
func keyOf(n int) PublicKey { return PrivateKey{1, byte(n), byte(n >> 8)}.Public() }

func boolean(b bool) *bool { return &b }
func number(n int) *int    { return &n }

func TestCheckName(t *testing.T) {
	for _, s := range []string{"home", "a", "my-server_2", strings.Repeat("a", 63)} {
		if err := CheckName(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", "Home", "7-word-word-word", "-a", "a.b", "a b", "a\n", "ä", "_a", strings.Repeat("a", 64)} {
		if err := CheckName(s); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v, want ErrName", s, err)
		}
	}
}

const example = `# Mine.

# The machine under the desk.
[peers.home]
key = "KEY1" # since May
signal = "https://meet.example.org"

# Bob may see the wiki.
[peers.bob] # a colleague
# not more
key = "KEY2"
allow = [
  "localhost:80", # the wiki
  "10.0.0.0/8:443",
]
local = true
remote = []
dynamic = ["*"]
streams = 16

# The end.
`

func exampleText() string {
	return strings.NewReplacer("KEY1", keyOf(1).String(), "KEY2", keyOf(2).String()).Replace(example)
}

func TestParsePeers(t *testing.T) {
	p, err := parse(exampleText())
	if err != nil {
		t.Fatal(err)
	}
	want := []Peer{
		{Name: "bob", Key: keyOf(2), Allow: []string{"localhost:80", "10.0.0.0/8:443"}, Local: boolean(true), Remote: []string{}, Dynamic: []string{"*"}, Streams: number(16)},
		{Name: "home", Key: keyOf(1), Signal: []string{"https://meet.example.org"}},
	}
	if got := p.All(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if x, ok := p.ByKey(keyOf(2)); !ok || x.Name != "bob" {
		t.Errorf("by key: %v, %v", x, ok)
	}
	if x, ok := p.ByKey(PublicKey{}); ok {
		t.Errorf("by no key: %v", x)
	}
	if _, ok := p.ByName("carol"); ok {
		t.Error("carol is known")
	}
}

func TestPeersFileErrors(t *testing.T) {
	good := keyOf(1).String()
	for name, test := range map[string]struct {
		text    string
		line    int
		message string
	}{
		"no TOML":         {"[peers.home\n", 2, ""},
		"another table":   {"[home]\nkey = \"x\"\n", 1, `unknown key "home": a peer stands in a table [peers.NAME]`},
		"no table":        {"peers = 1\n", 1, "peers is not a table: write [peers.NAME]"},
		"no name":         {"[peers]\nkey = \"x\"\n", 2, "key stands in no peer's table: write [peers.NAME] above it"},
		"bad name":        {"\n[peers.Home]\nkey = \"x\"\n", 2, `not a name for a peer: "Home" does not begin with a lower-case letter`},
		"unknown key":     {"[peers.home]\nsingal = \"x\"\n", 2, `unknown key "singal" in [peers.home]`},
		"bad key":         {"[peers.home]\n\nkey = \"adit1abc\"\n", 3, `peers.home.key: not a public key: it has 3 letters behind "adit1" and not 52`},
		"key is a number": {"[peers.home]\nkey = 1\n", 2, "peers.home.key is not a text in quotes"},
		"mixed list":      {"[peers.home]\nallow = [\"22\", 22]\n", 2, "peers.home.allow is not a list of texts"},
		"bad local":       {"[peers.home]\nlocal = \"no\"\n", 2, "peers.home.local is not true or false"},
		"bad streams":     {"[peers.home]\nstreams = -1\n", 2, "peers.home.streams is not a number of streams"},
		"two names":       {"[peers.a]\nkey = \"" + good + "\"\n[peers.b]\nkey = \"" + good + "\"\n", 0, "a and b have the same key"},
		"twice":           {"[peers.a]\n[peers.a]\n", 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "peers.toml")
			write(t, path, test.text, 0o600)
			_, err := LoadPeers(path)
			var e *FileError
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want a *FileError", err)
			}
			if e.Line != test.line || test.message != "" && e.Message != test.message || !strings.HasPrefix(e.Error(), path+":") {
				t.Errorf("line %d, %q, %q; want %d, %q", e.Line, e.Message, e.Error(), test.line, test.message)
			}
			if _, err := Add(path, Peer{Name: "new", Key: keyOf(9)}); !errors.As(err, &e) {
				t.Errorf("add: %v, want the same", err)
			}
			if got := read(t, path); got != test.text {
				t.Errorf("the file was changed: %q", got)
			}
		})
	}
}

func TestAddAndRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config", "adit", "peers.toml")
	full := Peer{Name: "full", Key: keyOf(3), Signal: []string{"https://a", `x"\` + "\n"}, Allow: []string{}, Local: boolean(false), Remote: []string{"8080"}, Dynamic: []string{"*"}, Streams: number(3)}
	for _, p := range []Peer{{Name: "home", Key: keyOf(1)}, full} {
		if added, err := Add(path, p); err != nil || !added {
			t.Fatalf("%s: %v, %v", p.Name, added, err)
		}
	}
	before := read(t, path)
	if !strings.HasPrefix(before, "# The peers") {
		t.Errorf("it begins with %.20q", before)
	}
	if added, err := Add(path, Peer{Name: "home", Key: keyOf(1)}); err != nil || added {
		t.Errorf("again: %v, %v; want nothing added", added, err)
	}
	var changed *KeyChangedError
	if _, err := Add(path, Peer{Name: "home", Key: keyOf(2)}); !errors.As(err, &changed) || !strings.Contains(err.Error(), keyOf(1).Fingerprint()) || !strings.Contains(err.Error(), keyOf(2).Fingerprint()) {
		t.Errorf("another key: %v, want both fingerprints", err)
	}
	if _, err := Add(path, Peer{Name: "second", Key: keyOf(1)}); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "home") {
		t.Errorf("another name: %v, want ErrTaken and the name", err)
	}
	if _, err := Add(path, Peer{Name: "Bad", Key: keyOf(2)}); !errors.Is(err, ErrName) {
		t.Errorf("a bad name: %v", err)
	}
	if _, err := Add(path, Peer{Name: "none"}); !errors.Is(err, ErrKeyText) {
		t.Errorf("no key: %v", err)
	}
	if got := read(t, path); got != before {
		t.Errorf("refusals changed the file to %q", got)
	}
	p, err := LoadPeers(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := p.ByName("full"); !reflect.DeepEqual(got, full) {
		t.Errorf("got %+v, want %+v", got, full)
	}
	if err := Remove(path, "home"); err != nil {
		t.Fatal(err)
	}
	if err := Remove(path, "home"); !errors.Is(err, ErrUnknown) {
		t.Errorf("again: %v, want ErrUnknown", err)
	}
	if runtime.GOOS != "windows" {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the directory's mode %v, %v", info.Mode(), err)
		}
	}
}

// TestEdits has adit change a file that a person wrote: everything else stays as it is.
func TestEdits(t *testing.T) {
	k := keyOf(7)
	for _, test := range []struct {
		name     string
		edit     func(path string) error
		old, new string // what is replaced in the example
	}{
		{"add", func(path string) error { _, err := Add(path, Peer{Name: "new", Key: k}); return err },
			"# The end.\n", "# The end.\n\n[peers.new]\nkey = \"" + k.String() + "\"\n"},
		{"rename", func(path string) error { return Rename(path, "bob", "robert") }, "[peers.bob] # a", "[peers.robert] # a"},
		{"set key", func(path string) error { return SetKey(path, "home", k) }, keyOf(1).String(), k.String()},
		{"remove the first", func(path string) error { return Remove(path, "home") },
			"[peers.home]\nkey = \"" + keyOf(1).String() + "\" # since May\nsignal = \"https://meet.example.org\"\n", ""},
		{"remove the last", func(path string) error { return Remove(path, "bob") },
			exampleText()[strings.Index(exampleText(), "[peers.bob]"):], "\n# The end.\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "peers.toml")
			write(t, path, exampleText(), 0o640)
			if err := test.edit(path); err != nil {
				t.Fatal(err)
			}
			want := strings.Replace(exampleText(), test.old, test.new, 1)
			if got := read(t, path); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o640 {
				t.Errorf("mode %v, %v; want that of the file before", info.Mode(), err)
			}
		})
	}
}

// TestForm has files that adit reads and cannot change: it says so, and leaves them alone.
func TestForm(t *testing.T) {
	inline := fmt.Sprintf("peers = { home = { key = %q } }\n", keyOf(1))
	dotted := fmt.Sprintf("peers.home.key = %q\n", keyOf(1))
	nested := fmt.Sprintf("[peers]\nhome = { key = %q }\n", keyOf(1))
	for name, text := range map[string]string{"inline": inline, "dotted": dotted, "nested": nested} {
		for edit, do := range map[string]func(path string) error{
			"rename": func(path string) error { return Rename(path, "home", "house") },
			"remove": func(path string) error { return Remove(path, "home") },
			"key":    func(path string) error { return SetKey(path, "home", keyOf(2)) },
		} {
			path := filepath.Join(t.TempDir(), "peers.toml")
			write(t, path, text, 0o600)
			if err := do(path); !errors.Is(err, ErrForm) {
				t.Errorf("%s, %s: %v, want ErrForm", name, edit, err)
			}
			if got := read(t, path); got != text {
				t.Errorf("%s, %s: the file was changed to %q", name, edit, got)
			}
		}
	}
}

func TestRenameErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.toml")
	write(t, path, exampleText(), 0o600)
	if err := Rename(path, "carol", "dave"); !errors.Is(err, ErrUnknown) {
		t.Errorf("nobody: %v", err)
	}
	if err := Rename(path, "bob", "home"); !errors.Is(err, ErrTaken) {
		t.Errorf("a name that is taken: %v", err)
	}
	if err := Rename(path, "bob", "Bob"); !errors.Is(err, ErrName) {
		t.Errorf("a bad name: %v", err)
	}
	if err := SetKey(path, "bob", keyOf(1)); !errors.Is(err, ErrTaken) {
		t.Errorf("the key of home: %v", err)
	}
	if got := read(t, path); got != exampleText() {
		t.Error("the file was changed")
	}
}

// TestManyAdd has many add peers to one file at the same time: none is lost.
func TestManyAdd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.toml")
	const n = 30
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := Add(path, Peer{Name: fmt.Sprintf("peer%d", i), Key: keyOf(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if p, err := LoadPeers(path); err != nil || len(p.All()) != n {
		t.Errorf("%d peers, %v; want %d", len(p.All()), err, n)
	}
}

func TestPeersFilePermissions(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes here")
	}
	path := filepath.Join(t.TempDir(), "peers.toml")
	write(t, path, exampleText(), 0o600)
	for _, mode := range []fs.FileMode{0o620, 0o602} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadPeers(path); !errors.Is(err, ErrPermissions) || !strings.Contains(err.Error(), "chmod") {
			t.Errorf("%o: %v, want ErrPermissions", mode, err)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadPeers(path); err != nil {
		t.Errorf("others may read public keys: %v", err)
	}
}

func TestMerge(t *testing.T) {
	p, err := parse(exampleText())
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.Merge([]Peer{{Name: "bob", Allow: []string{"22"}, Local: boolean(false)}, {Name: "home", Key: keyOf(1)}, {Name: "carol", Key: keyOf(3)}})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(m.Names(), " "); got != "bob carol home" {
		t.Errorf("names %s", got)
	}
	bob, _ := m.ByName("bob")
	if want := (Peer{Name: "bob", Key: keyOf(2), Allow: []string{"22"}, Local: boolean(false), Remote: []string{}, Dynamic: []string{"*"}, Streams: number(16)}); !reflect.DeepEqual(bob, want) {
		t.Errorf("bob is %+v, want %+v", bob, want)
	}
	var changed *KeyChangedError
	if _, err := p.Merge([]Peer{{Name: "bob", Key: keyOf(4)}}); !errors.As(err, &changed) {
		t.Errorf("another key: %v, want a *KeyChangedError", err)
	}
	var file *FileError
	if _, err := p.Merge([]Peer{{Name: "carol", Key: keyOf(1)}}); !errors.As(err, &file) {
		t.Errorf("a key under two names: %v, want a *FileError", err)
	}
	var none *Peers
	if m, err := none.Merge(nil); err != nil || len(m.All()) != 0 {
		t.Errorf("nothing: %v, %v", m, err)
	}
}

// FuzzPeers has a file changed and read again.
func FuzzPeers(f *testing.F) {
	f.Add(exampleText())
	f.Add("[peers.a]\n\n[peers.b]\n")
	f.Add("[peers.a]\nallow = [\n[peers.b]\n]\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parse(text)
		if err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "peers.toml")
		write(t, path, text, 0o600)
		added, err := Add(path, Peer{Name: "fuzz-new", Key: keyOf(500)})
		if err != nil && !errors.Is(err, ErrForm) && !errors.Is(err, ErrTaken) {
			t.Fatal(err)
		}
		if !added {
			return
		}
		if err := Remove(path, "fuzz-new"); err != nil {
			t.Fatalf("remove what was added: %v", err)
		}
		again, err := LoadPeers(path)
		if err != nil || !reflect.DeepEqual(again.All(), p.All()) {
			t.Errorf("afterwards: %v, %+v, want %+v", err, again.All(), p.All())
		}
	})
}
