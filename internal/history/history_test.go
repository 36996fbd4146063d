package history

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"adit/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestHistory(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state", "adit", "paths.json")
	h := Open(path)
	if e, ok := h.Look("a", "home"); ok {
		t.Errorf("an empty history knows %+v", e)
	}
	for _, c := range []struct {
		peer, network string
		want          Entry
	}{{"a", "home", Entry{Kind: Burst}}, {"a", "work", Entry{Kind: Relay, Stream: true}}, {"", "home", Entry{Kind: Direct}}, {"a", "home", Entry{Kind: Direct}}} {
		if err := h.Keep(c.peer, c.network, c.want); err != nil {
			t.Fatal(err)
		}
		if got, ok := Open(path).Look(c.peer, c.network); !ok || got != c.want {
			t.Errorf("%q in %q: got %+v, %v, want %+v", c.peer, c.network, got, ok, c.want)
		}
	}
	if e, ok := h.Look("ah", "ome"); ok {
		t.Errorf("another peer in another network: %+v", e)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("home")) || bytes.Count(b, []byte(`"id"`)) != 3 {
		t.Errorf("the file has %s", b)
	}
	if i, err := os.Stat(path); err != nil || i.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		t.Errorf("mode %v, %v", i.Mode(), err)
	}
	var none *History
	if _, ok := none.Look("a", "home"); ok || none.Keep("a", "home", Entry{}) != nil {
		t.Error("no history remembers")
	}
}

// The file stays small, and forgets.
func TestBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "paths.json")
	h := Open(path)
	now := time.Now()
	h.now = func() time.Time { return now }
	for i := range most + 10 {
		now = now.Add(time.Minute)
		if err := h.Keep(fmt.Sprint(i), "home", Entry{Kind: Relay, Stream: true}); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range map[int]bool{0: false, 9: false, 10: true, most + 9: true} {
		if _, ok := h.Look(fmt.Sprint(i), "home"); ok != want {
			t.Errorf("entry %d is there: %v, want %v", i, ok, want)
		}
	}
	if i, err := os.Stat(path); err != nil || i.Size() > fileBytes/2 {
		t.Errorf("%d bytes, %v", i.Size(), err)
	}
	now = now.Add(life + 2*time.Hour)
	if e, ok := h.Look(fmt.Sprint(most+9), "home"); ok {
		t.Errorf("after %v: %+v", life, e)
	}
}

// A file that is no history is an empty one, and is replaced.
func TestBroken(t *testing.T) {
	t.Parallel()
	for name, text := range map[string][]byte{
		"empty": nil, "no JSON": []byte("{"), "no salt": []byte(`{"entries":[{"id":"x","at":1}]}`), "long": bytes.Repeat([]byte(" "), fileBytes+1),
		"another": []byte(`[1]`),
	} {
		path := filepath.Join(t.TempDir(), "paths.json")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		h := Open(path)
		if e, ok := h.Look("a", "home"); ok {
			t.Errorf("%s: %+v", name, e)
		}
		if err := h.Keep("a", "home", Entry{Kind: Direct}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, ok := h.Look("a", "home"); !ok {
			t.Errorf("%s: nothing was kept", name)
		}
	}
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Open(filepath.Join(blocked, "paths.json")).Keep("a", "home", Entry{Kind: Direct}); err == nil {
		t.Error("no error where no file can be")
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte(`{"salt":"AAAAAAAAAAAAAAAAAAAAAA==","entries":[{"id":"x","at":1,"kind":"relay","stream":true}]}`))
	path := filepath.Join(f.TempDir(), "paths.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		h := Open(path)
		h.Look("a", "home")
		if err := h.Keep("a", "home", Entry{Kind: Burst}); err != nil {
			t.Fatal(err)
		}
		if e, ok := h.Look("a", "home"); !ok || e.Kind != Burst {
			t.Errorf("got %+v, %v", e, ok)
		}
	})
}
