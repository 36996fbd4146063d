package identity

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// tiny mounts a file system of its own with the given options.
func tiny(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("adit-test", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("mount a file system: %v; this test runs as root", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all space of dir.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

func TestFullDisk(t *testing.T) {
	t.Run("first key", func(t *testing.T) {
		dir := tiny(t, "size=16k,mode=0700")
		fill(t, dir)
		if _, err := LoadOrCreate(dir); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "save the private key") {
			t.Errorf("got %v, want ENOSPC and what was tried", err)
		}
		names(t, dir, "ballast", "key.lock")
	})
	t.Run("rotate", func(t *testing.T) {
		dir := tiny(t, "size=16k,mode=0700")
		k, err := LoadOrCreate(dir)
		if err != nil {
			t.Fatal(err)
		}
		fill(t, dir)
		if _, _, err := Rotate(dir); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("got %v, want ENOSPC", err)
		}
		if again, err := Load(dir); err != nil || again != k {
			t.Errorf("the old key is lost: %v", err)
		}
		names(t, dir, "ballast", "key", "key.lock")
	})
	t.Run("no inodes", func(t *testing.T) {
		dir := tiny(t, "nr_inodes=3,mode=0700") // the root, the key, and the lock
		k, err := LoadOrCreate(dir)
		if err != nil {
			t.Skip(err)
		}
		if _, _, err := Rotate(dir); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("got %v, want ENOSPC", err)
		}
		if again, err := Load(dir); err != nil || again != k {
			t.Errorf("the old key is lost: %v", err)
		}
	})
}

func TestFullDiskPeers(t *testing.T) {
	dir := tiny(t, "size=16k,mode=0700")
	path := filepath.Join(dir, "peers.toml")
	if _, err := Add(path, Peer{Name: "home", Key: keyOf(1)}); err != nil {
		t.Fatal(err)
	}
	before := read(t, path)
	fill(t, dir)
	if _, err := Add(path, Peer{Name: "bob", Key: keyOf(2)}); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "save the known peers") {
		t.Errorf("add: %v, want ENOSPC and what was tried", err)
	}
	if err := Remove(path, "home"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("remove: %v, want ENOSPC", err)
	}
	if got := read(t, path); got != before {
		t.Errorf("the file is %q, want it as it was", got)
	}
	names(t, dir, "ballast", "peers.toml", "peers.toml.lock")
}

func TestReadOnlyDisk(t *testing.T) {
	dir := tiny(t, "size=16k,mode=0700")
	k, err := LoadOrCreate(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skip(err)
	}
	if again, err := LoadOrCreate(dir); err != nil || again != k {
		t.Errorf("a key that is there: %v, or another one", err)
	}
	if _, _, err := Rotate(dir); !errors.Is(err, syscall.EROFS) {
		t.Errorf("rotate: %v, want EROFS", err)
	}
	if _, err := LoadOrCreate(filepath.Join(dir, "below")); !errors.Is(err, syscall.EROFS) {
		t.Errorf("a directory that cannot be made: %v, want EROFS", err)
	}
}
