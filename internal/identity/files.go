package identity

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
)

const (
	// lockWait is how long a process waits for another that changes the same file, which takes
	// milliseconds.
	lockWait = 5 * time.Second
	lockPoll = 10 * time.Millisecond
)

// ErrBusy is unwrapped where another process has held the lock of a file for too long.
var ErrBusy = errors.New("another adit is changing it")

// errLocked is what tryLock returns while somebody else has the lock.
var errLocked = errors.New("locked")

// StateDir returns the directory of the key file: $XDG_STATE_HOME/adit, else ~/.local/state/adit
// (%LOCALAPPDATA%\adit on Windows). It need not exist.
func StateDir() (string, error) {
	return userDir("XDG_STATE_HOME", "LOCALAPPDATA", ".local", "state")
}

// PeersFile returns the path of the file of known peers: $XDG_CONFIG_HOME/adit/peers.toml, else
// ~/.config/adit/peers.toml (%APPDATA%\adit\peers.toml on Windows). It need not exist.
func PeersFile() (string, error) {
	dir, err := userDir("XDG_CONFIG_HOME", "APPDATA", ".config")
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "peers.toml"), nil
}

// ErrNoHome says that this user has no home directory.
var ErrNoHome = errors.New("this user has no home directory")

// Home returns the user's home directory: $HOME (%USERPROFILE% on Windows), or else what the system's database of
// users says, for a process that was started without an environment. It fails with ErrNoHome.
func Home() (string, error) {
	if home, err := os.UserHomeDir(); err == nil {
		return home, nil
	}
	u, err := user.LookupId(strconv.Itoa(os.Getuid()))
	if err != nil || !filepath.IsAbs(u.HomeDir) {
		return "", ErrNoHome
	}
	return u.HomeDir, nil
}

// userDir returns adit's directory below the one that a variable names. The XDG specification has
// relative ones ignored.
func userDir(variable, windows string, below ...string) (string, error) {
	dir := os.Getenv(variable)
	if !filepath.IsAbs(dir) {
		dir = ""
	}
	if dir == "" && runtime.GOOS == "windows" {
		dir = os.Getenv(windows)
	}
	if dir == "" {
		home, err := Home()
		if err != nil {
			return "", fmt.Errorf("$%s is not set: %w", variable, err)
		}
		dir = filepath.Join(append([]string{home}, below...)...)
	}
	return filepath.Join(dir, "adit"), nil
}

// lock waits until no other process changes the file at path, and keeps them off until the returned
// function is called. The lock file stays: to remove it would let two have the lock.
func lock(path string) (func(), error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	limit := time.NewTimer(lockWait)
	defer limit.Stop()
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		switch err := tryLock(f); {
		case err == nil:
			return func() { _ = f.Close() }, nil // which gives the lock back
		case !errors.Is(err, errLocked):
			_ = f.Close() // nothing was written
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-poll.C:
		case <-limit.C:
			_ = f.Close() // nothing was written
			return nil, fmt.Errorf("lock %s: %w", path, ErrBusy)
		}
	}
}

// replace makes data the content of the file at path, in one step: whoever reads it, and whatever
// fails, there is either the old content or the new: an error says so if it is the new. A link is
// followed, so that it stays one.
func replace(path string, data []byte, mode fs.FileMode) (err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	var tail [6]byte
	if _, err := rand.Read(tail[:]); err != nil {
		return err
	}
	fresh := path + ".new-" + hex.EncodeToString(tail[:])
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(fresh) // err says what went wrong first
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode) // whatever the umask took away
	}
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	if err = os.Rename(fresh, path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("it is written, but may be gone after a loss of power: %w", err)
	}
	return nil
}

// TryLock takes the lock of the file at path, which it makes if need be. ok is false if another process, or another
// caller, has it. The lock ends with release, which leaves the file, or with the process, however that ends.
func TryLock(path string) (release func(), ok bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, err
	}
	switch err := tryLock(f); {
	case err == nil:
		return func() { _ = f.Close() }, true, nil // which gives the lock back
	case errors.Is(err, errLocked):
		_ = f.Close() // nothing was written
		return nil, false, nil
	default:
		_ = f.Close() // nothing was written
		return nil, false, fmt.Errorf("lock %s: %w", path, err)
	}
}
