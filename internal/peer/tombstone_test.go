package peer

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/internal/event"
)

// TestTombstone: the next process of a machine tells the peer that the last one has died, and the peer's streams
// are reset at once; a process that lives tells nobody.
func TestTombstone(t *testing.T) {
	t.Parallel()
	for _, role := range []Role{Exposer, Connecter} {
		url, dir := meetingPlace(t), filepath.Join(t.TempDir(), "sessions")
		stones := [2]*Tombstones{Exposer: OpenTombstones(dir), Connecter: OpenTombstones(dir)} // as of two processes
		a := dial(t.Context(), Config{Role: Exposer, Signal: url, Tombstones: stones[Exposer], ResumeTimeout: time.Minute})
		b := dial(t.Context(), Config{Role: Connecter, Signal: url, Code: a.event(t, event.Code).Code, Tombstones: stones[Connecter], ResumeTimeout: time.Minute})
		sa, sb := a.session(t), b.session(t)
		dead, left := sa, sb
		if role == Connecter {
			dead, left = sb, sa
		}
		exchange(t, sa, sb)
		files := func() (n int) {
			found, err := filepath.Glob(filepath.Join(dir, "*", "*.json"))
			if err != nil {
				t.Fatal(err)
			}
			return len(found)
		}
		eventually(t, "a tombstone for each", func() bool { return files() == 2 })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		st, err := left.Streams().Open(ctx, []byte("waits"))
		if err != nil {
			t.Fatal(err)
		}

		OpenTombstones(dir).Bury(ctx, slog.New(slog.DiscardHandler)) // both live
		if files() != 2 {
			t.Fatal("the tombstone of a living process was taken away")
		}
		dead.end.host.Close() // it says nothing any more,
		stones[role].mu.Lock()
		stones[role].release() // and its locks end
		stones[role].release = func() {}
		stones[role].mu.Unlock()
		began := time.Now()
		next := OpenTombstones(dir)
		next.Bury(ctx, slog.New(slog.DiscardHandler))
		if files() != 1 {
			t.Error("the tombstone of the dead is still there, or that of the living is not")
		}
		if _, err := io.ReadAll(st); !errors.Is(err, ErrRestarted) {
			t.Errorf("stream of the one who was left: %v, want %v", err, ErrRestarted)
		}
		var e *Error
		if err := left.Wait(); !errors.As(err, &e) || e.Class != ClassGone {
			t.Errorf("the session of the one who was left: %v", err)
		}
		if took := time.Since(began); took > 20*time.Second { // without its tombstone, after ResumeTimeout
			t.Errorf("noticed after %v", took)
		}
		left.Close()
		dead.Close()
		if all, err := os.ReadDir(dir); err != nil || len(all) > 0 {
			t.Errorf("left behind: %v, %v", all, err)
		}
	}
}

// eventually waits for a condition that other goroutines bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// TestBury: what is no tombstone of this machine, of a process that has died not long ago, is not delivered.
func TestBury(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 64)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		w.WriteHeader(http.StatusNoContent)
	}))
	defer web.Close()
	good, err := json.Marshal(stone{URL: web.URL, ID: make([]byte, 16), Letter: []byte("sealed")})
	if err != nil {
		t.Fatal(err)
	}
	short, err := json.Marshal(stone{URL: web.URL, ID: make([]byte, 15), Letter: []byte("sealed")})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		dir       string
		content   string
		age       time.Duration
		delivered bool
		stays     bool
	}{
		"good":         {hostMark() + "1", string(good), 0, true, false},
		"another host": {"0123456789ab-1", string(good), 0, false, true},
		"old":          {hostMark() + "1", string(good), tombstoneLife + time.Minute, false, false},
		"cut":          {hostMark() + "1", string(good[:20]), 0, false, false},
		"empty":        {hostMark() + "1", "", 0, false, false},
		"large":        {hostMark() + "1", string(good) + strings.Repeat(" ", tombstoneBytes), 0, false, false},
		"no mailbox":   {hostMark() + "1", string(short), 0, false, false},
		"no url":       {hostMark() + "1", strings.Replace(string(good), "http", "gopher", 1), 0, false, false},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, test.dir, "x.json")
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-test.age)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
		OpenTombstones(dir).Bury(t.Context(), slog.New(slog.DiscardHandler))
		if got := len(asked) > 0; got != test.delivered {
			t.Errorf("%s: delivered %v, want %v", name, got, test.delivered)
		}
		for len(asked) > 0 {
			<-asked
		}
		if _, err := os.Stat(path); (err == nil) != test.stays {
			t.Errorf("%s: stays: %v, want %v", name, err == nil, test.stays)
		}
	}

	// A rendezvous that is away does not lose it.
	dir := t.TempDir()
	web.Close()
	path := filepath.Join(dir, hostMark()+"1", "x.json")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	OpenTombstones(dir).Bury(ctx, slog.New(slog.DiscardHandler))
	if _, err := os.Stat(path); err != nil {
		t.Errorf("not delivered, and gone: %v", err)
	}
	var none *Tombstones
	none.Bury(ctx, nil)
	none.raise(nil).write(nil)
	none.raise(nil).remove()
}
