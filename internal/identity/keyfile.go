package identity

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	keyName = "key"
	oldName = "key.old"

	// keyFileBytes bounds what is read of a key file. Ours have about 250 bytes.
	keyFileBytes = 4096
)

var (
	// ErrKeyFile is unwrapped by the errors of key files that are damaged, or no key files at all.
	ErrKeyFile = errors.New("the key file is damaged")

	// ErrPermissions is unwrapped where others than the owner could read a key file or
	// replace it, or write the file of peers.
	ErrPermissions = errors.New("permissions are too wide")
)

// KeyFile returns the path of the key file in a state directory.
func KeyFile(dir string) string { return filepath.Join(dir, keyName) }

// LoadOrCreate returns the private key of the state directory dir, which StateDir names. On first use
// it makes dir and the key; of several processes that do so at once all get the same key.
//
// A file that others can read or replace is refused (ErrPermissions), and so is one that is damaged
// (ErrKeyFile): neither is ever replaced by a new key, which peers would not know.
func LoadOrCreate(dir string) (PrivateKey, error) {
	k, err := Load(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return PrivateKey{}, fmt.Errorf("make a directory for the key: %w", err)
	}
	unlock, err := lock(KeyFile(dir))
	if err != nil {
		return PrivateKey{}, err
	}
	defer unlock()
	if k, err := Load(dir); !errors.Is(err, fs.ErrNotExist) { // somebody else was first
		return k, err
	}
	if k, err = generate(); err != nil {
		return PrivateKey{}, err
	}
	return k, saveKey(KeyFile(dir), k)
}

// Load returns the private key of the state directory dir. An error wraps fs.ErrNotExist if there is
// none yet.
func Load(dir string) (PrivateKey, error) {
	path := KeyFile(dir)
	f, err := os.Open(path)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("read the private key: %w", err)
	}
	defer f.Close()
	if err := private(f); err != nil {
		return PrivateKey{}, err
	}
	b, err := io.ReadAll(io.LimitReader(f, keyFileBytes+1))
	if err != nil {
		return PrivateKey{}, fmt.Errorf("read the private key: %w", err)
	}
	k, problem := parseKeyFile(string(b))
	if problem != "" {
		return PrivateKey{}, fmt.Errorf("%w: %s: %s", ErrKeyFile, path, problem)
	}
	return k, nil
}

// Rotate replaces the private key of the state directory dir by a new one, and returns both public
// keys. Peers know the old one: they refuse this machine until they were told the new one. Until the
// new key is safely written the old one is kept beside it, as key.old. A damaged file, or one that
// others could read, is replaced too: old is the zero key then.
//
// With an error, now is the zero key if the old key stays in force, and the new one if that is in force
// all the same; the old one is left as key.old then.
func Rotate(dir string) (old, now PublicKey, err error) { return rotate(dir, saveKey) }

func rotate(dir string, save func(path string, k PrivateKey) error) (old, now PublicKey, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return old, now, fmt.Errorf("make a directory for the key: %w", err)
	}
	unlock, err := lock(KeyFile(dir))
	if err != nil {
		return old, now, err
	}
	defer unlock()
	path, kept := KeyFile(dir), filepath.Join(dir, oldName)
	was, err := Load(dir)
	there := !errors.Is(err, fs.ErrNotExist)
	switch {
	case err == nil:
		old = was.Public()
	case there && !errors.Is(err, ErrKeyFile) && !errors.Is(err, ErrPermissions):
		return old, now, err
	}
	k, err := generate()
	if err != nil {
		return old, now, err
	}
	if there {
		if err := keep(path, kept); err != nil {
			return old, now, fmt.Errorf("keep the old key: %w", err)
		}
	}
	if err := save(path, k); err != nil {
		if is, failed := Load(dir); failed == nil && is == k {
			return old, k.Public(), fmt.Errorf("the new key is in force: %w", err)
		}
		_ = os.Remove(kept) // the old key is still in its place
		return old, now, err
	}
	if err := os.Remove(kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return old, k.Public(), fmt.Errorf("the new key is in force, and the old one is left: %w", err)
	}
	return old, k.Public(), nil
}

// keep copies the key file at path to kept, readable for the owner alone.
func keep(path, kept string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, keyFileBytes))
	if err != nil {
		return err
	}
	return replace(kept, b, 0o600)
}

func saveKey(path string, k PrivateKey) error {
	if err := replace(path, []byte(keyFileText(k, time.Now())), 0o600); err != nil {
		return fmt.Errorf("save the private key: %w", err)
	}
	return nil
}

// keyFileText returns what a key file holds. The public key is there for people, and as a checksum.
func keyFileText(k PrivateKey, now time.Time) string {
	return fmt.Sprintf("# The private key of this machine, made by adit on %s. Whoever has it is this machine to its peers.\n# public key: %s\n%s\n",
		now.UTC().Format(time.DateOnly), k.Public(), k.text())
}

// parseKeyFile reads what keyFileText wrote, and says what is wrong if it is something else.
func parseKeyFile(s string) (k PrivateKey, problem string) {
	if len(s) > keyFileBytes {
		return k, fmt.Sprintf("it has more than %d bytes", keyFileBytes)
	}
	var secret string
	var public PublicKey
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		comment, isComment := strings.CutPrefix(line, "#")
		switch {
		case line == "":
		case isComment:
			p, ok := strings.CutPrefix(strings.TrimSpace(comment), "public key:")
			if !ok {
				continue
			}
			var err error
			if public, err = ParsePublicKey(p); err != nil {
				return k, "the public key in it is damaged"
			}
		case secret != "":
			return k, "it has more lines than it should"
		default:
			secret = line
		}
	}
	body, ok := strings.CutPrefix(secret, privatePrefix)
	if secret == "" {
		return k, "it holds no key"
	}
	b, whole := decodeLetters(body)
	if !ok || !whole || PrivateKey(b).text() != secret {
		return k, "the private key in it is damaged"
	}
	k = b
	if !public.IsZero() && k.Public() != public {
		return PrivateKey{}, "the private and the public key in it do not belong together"
	}
	return k, ""
}
