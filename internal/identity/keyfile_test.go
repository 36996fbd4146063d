package identity

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/internal/testtier"
)

func TestLoadOrCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "adit")
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before there is one: %v, want ErrNotExist", err)
	}
	k, err := LoadOrCreate(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreate(dir)
	if err != nil || again != k {
		t.Errorf("again: another key, or %v", err)
	}
	if runtime.GOOS == "windows" {
		return
	}
	for path, want := range map[string]fs.FileMode{dir: 0o700, KeyFile(dir): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %o", path, info.Mode(), err, want)
		}
	}
}

// TestOneKey has many make the first key of one directory at the same time.
func TestOneKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "adit")
	var mu sync.Mutex
	keys := map[PrivateKey]int{}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			k, err := LoadOrCreate(dir)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			keys[k]++
		})
	}
	wg.Wait()
	if len(keys) != 1 {
		t.Errorf("%d keys, want one", len(keys))
	}
	names(t, dir, "key", "key.lock")
}

func TestRotate(t *testing.T) {
	dir := t.TempDir()
	old, now, err := Rotate(dir)
	if err != nil || !old.IsZero() || now.IsZero() {
		t.Errorf("the first: %v, %v, %v; want a new key alone", old, now, err)
	}
	was, next, err := Rotate(dir)
	if err != nil || was != now || next == now {
		t.Errorf("the second: %v, %v, %v", was, next, err)
	}
	if k, err := Load(dir); err != nil || k.Public() != next {
		t.Errorf("not in force: %v", err)
	}
	names(t, dir, "key", "key.lock")
}

// A key that is in force is said to be, whatever fails after that, and the old one is not thrown away.
func TestRotateFailsLate(t *testing.T) {
	fails := errors.New("no sync")
	for name, written := range map[string]bool{"before the file is replaced": false, "after": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			was, err := LoadOrCreate(dir)
			if err != nil {
				t.Fatal(err)
			}
			before := read(t, KeyFile(dir))
			old, now, err := rotate(dir, func(path string, k PrivateKey) error {
				if written {
					if err := saveKey(path, k); err != nil {
						return err
					}
				}
				return fails
			})
			is, failed := Load(dir)
			if !errors.Is(err, fails) || failed != nil || old != was.Public() {
				t.Fatalf("got %v, %v, %v; the file: %v", old, now, err, failed)
			}
			if !written {
				if !now.IsZero() || is != was {
					t.Errorf("got %v, in force %v, want the old key", now, is.Public())
				}
				names(t, dir, "key", "key.lock")
				return
			}
			if is == was || now != is.Public() || !strings.Contains(err.Error(), "the new key is in force") {
				t.Errorf("got %v, %v, in force %v", now, err, is.Public())
			}
			if got := read(t, filepath.Join(dir, oldName)); got != before {
				t.Errorf("the old key is left as %q", got)
			}
		})
	}
}

func TestDamagedKeyFile(t *testing.T) {
	k, p := alice(t)
	good := keyFileText(k, time.Now())
	if got, problem := parseKeyFile(good); problem != "" || got != k {
		t.Fatalf("a good file: %s", problem)
	}
	for name, test := range map[string]struct{ text, want string }{
		"empty":         {"", "it holds no key"},
		"zeros":         {strings.Repeat("\x00", len(good)), "the private key in it is damaged"},
		"cut":           {good[:len(good)-4], "the private key in it is damaged"},
		"cut earlier":   {good[:strings.Index(good, "adit-secret1")], "it holds no key"},
		"a letter":      {strings.Replace(good, "adit-secret1o", "adit-secret1a", 1), "do not belong together"},
		"public letter": {strings.Replace(good, p.String(), p.String()[:50], 1), "the public key in it is damaged"},
		"two":           {good + k.text() + "\n", "more lines"},
		"huge":          {good + strings.Repeat("#\n", keyFileBytes), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.text == good {
				t.Fatal("nothing is wrong with it")
			}
			dir := t.TempDir()
			write(t, KeyFile(dir), test.text, 0o600)
			_, err := LoadOrCreate(dir)
			if !errors.Is(err, ErrKeyFile) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), KeyFile(dir)) {
				t.Errorf("got %v, want ErrKeyFile with %q and the path", err, test.want)
			}
			if got := read(t, KeyFile(dir)); got != test.text {
				t.Error("the file was changed")
			}
			old, now, err := Rotate(dir)
			if err != nil || !old.IsZero() || now.IsZero() {
				t.Errorf("rotate: %v, %v, %v", old, now, err)
			}
		})
	}
}

func TestPermissions(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes here")
	}
	for name, change := range map[string]func(dir string) error{
		"group reads":  func(dir string) error { return os.Chmod(KeyFile(dir), 0o640) },
		"others read":  func(dir string) error { return os.Chmod(KeyFile(dir), 0o604) },
		"others write": func(dir string) error { return os.Chmod(KeyFile(dir), 0o602) },
		"group owns":   func(dir string) error { return os.Chmod(dir, 0o770) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "adit")
			k, err := LoadOrCreate(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadOrCreate(dir); !errors.Is(err, ErrPermissions) || !strings.Contains(err.Error(), "chmod") {
				t.Errorf("got %v, want ErrPermissions that says what to do", err)
			}
			if err := errors.Join(os.Chmod(dir, 0o700), os.Chmod(KeyFile(dir), 0o600)); err != nil {
				t.Fatal(err)
			}
			if again, err := LoadOrCreate(dir); err != nil || again != k {
				t.Errorf("afterwards: %v, or another key", err)
			}
		})
	}
	t.Run("a directory", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Mkdir(KeyFile(dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadOrCreate(dir); !errors.Is(err, ErrKeyFile) {
			t.Errorf("got %v, want ErrKeyFile", err)
		}
	})
}

func TestReplaceFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	write(t, file, "old", 0o600)
	if err := os.Symlink("file", link); err != nil {
		t.Skip(err)
	}
	if err := replace(link, []byte("new"), 0o640); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != fs.ModeSymlink {
		t.Errorf("the link is gone: %v, %v", info.Mode(), err)
	}
	if got := read(t, file); got != "new" {
		t.Errorf("it holds %q", got)
	}
	names(t, dir, "file", "link")
}

func TestLockIsGivenBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	unlock, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1) // the one result of lock
	go func() {
		again, err := lock(path)
		if err == nil {
			again()
		}
		waiting <- err
	}()
	select {
	case err := <-waiting:
		t.Errorf("two have the lock: %v", err)
	case <-time.After(5 * lockPoll):
	}
	unlock()
	if err := <-waiting; err != nil {
		t.Error(err)
	}
}

func TestBusy(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	dir := t.TempDir()
	unlock, err := lock(KeyFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, _, err := Rotate(dir); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
}

func FuzzKeyFile(f *testing.F) {
	k, _ := alice(f)
	f.Add(keyFileText(k, time.Unix(0, 0)))
	f.Add(privatePrefix + strings.Repeat("2", keyLetters-7) + "\xff\xff\xff0000") // "padding"
	f.Fuzz(func(t *testing.T, s string) {
		k, problem := parseKeyFile(s)
		if problem == "" && !strings.Contains(s, k.text()) {
			t.Errorf("%q is read as a key that it does not hold", s)
		}
	})
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// names checks what is in dir.
func names(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, e := range entries {
		b.WriteString(e.Name() + " ")
	}
	if got := strings.TrimSpace(b.String()); got != strings.Join(want, " ") {
		t.Errorf("%s holds %s, want %s", dir, got, strings.Join(want, " "))
	}
}
