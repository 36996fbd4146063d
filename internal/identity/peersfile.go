package identity

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// peersBytes bounds the file of peers: some five thousand of them.
const peersBytes = 1 << 20

var (
	// ErrUnknown is unwrapped where a name is not in the file.
	ErrUnknown = errors.New("no such peer")

	// ErrTaken is unwrapped where a name or a key is in the file already, with something else.
	ErrTaken = errors.New("known already")

	// ErrForm is unwrapped where the file is written in a way that adit reads and cannot change.
	ErrForm = errors.New("the file is written in a way that adit cannot change: please edit it yourself")
)

const preamble = `# The peers that adit knows. You may edit this: "adit peers" leaves everything else as it is.
# A table [peers.NAME] has the key, and may have signal, allow, local, remote, dynamic and streams,
# which config.example.toml explains.
`

// LoadPeers reads the file of known peers at path; one that is not there is empty. A file that others
// can write is refused (ErrPermissions), for it says who may come in. Errors in it are *FileError.
func LoadPeers(path string) (*Peers, error) {
	text, _, err := readPeers(path)
	if err != nil {
		return nil, err
	}
	return parseAt(path, text)
}

func parseAt(path, text string) (*Peers, error) {
	p, err := parse(text)
	var e *FileError
	if errors.As(err, &e) {
		e.Path = path
	}
	return p, err
}

// readPeers returns the text of the file, and its mode.
func readPeers(path string) (string, fs.FileMode, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		// There is no secret in it, and a service that root installs reads it as another user. What adit makes of
		// directories is closed to others anyway.
		return "", 0o644, nil
	}
	if err != nil {
		return "", 0, fmt.Errorf("read the known peers: %w", err)
	}
	defer f.Close()
	if err := Trusted(f); err != nil {
		return "", 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return "", 0, fmt.Errorf("read the known peers: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(f, peersBytes+1))
	switch {
	case err != nil:
		return "", 0, fmt.Errorf("read the known peers: %w", err)
	case len(b) > peersBytes:
		return "", 0, &FileError{Path: path, Message: fmt.Sprintf("it has more than %d bytes", peersBytes)}
	}
	return string(b), info.Mode().Perm(), nil
}

// Add puts a new peer with its key into the file at path, which is made if it is not there. It returns
// false if the peer is in it already with this key. Another key is a *KeyChangedError, and a key that
// is known by another name wraps ErrTaken.
func Add(path string, p Peer) (added bool, err error) {
	if err := CheckName(p.Name); err != nil {
		return false, err
	}
	if p.Key.IsZero() {
		return false, fmt.Errorf("add %s: %w: there is none", p.Name, ErrKeyText)
	}
	err = change(path, func(text string, now *Peers) (string, []Peer, error) {
		if known, ok := now.ByName(p.Name); ok {
			if known.Key != p.Key {
				return "", nil, &KeyChangedError{Name: p.Name, Known: known.Key, Got: p.Key}
			}
			return text, now.All(), nil
		}
		if known, ok := now.ByKey(p.Key); ok {
			return "", nil, fmt.Errorf("this key is %w as %s", ErrTaken, known.Name)
		}
		added = true
		switch {
		case text == "":
			text = preamble
		case !strings.HasSuffix(text, "\n"):
			text += "\n"
		}
		return text + "\n" + p.Table(), append(now.All(), p), nil
	})
	return added && err == nil, err
}

// Rename gives a peer of the file at path another name.
func Rename(path, old, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return change(path, func(text string, now *Peers) (string, []Peer, error) {
		p, known := now.ByName(old)
		if !known {
			return "", nil, fmt.Errorf("%w: %s", ErrUnknown, old)
		}
		if _, taken := now.ByName(name); taken {
			return "", nil, fmt.Errorf("%s is %w", name, ErrTaken)
		}
		lines := slices.Collect(strings.Lines(text))
		for i, line := range lines {
			if t, ok := header(line); ok && t == table+"."+old {
				_, rest, _ := strings.Cut(line, "]")
				lines[i] = "[" + table + "." + name + "]" + rest
			}
		}
		p.Name = name
		return strings.Join(lines, ""), append(without(now, old), p), nil
	})
}

// SetKey gives a peer of the file at path another key, after a person has made sure that it is its own.
func SetKey(path, name string, k PublicKey) error {
	return change(path, func(text string, now *Peers) (string, []Peer, error) {
		p, known := now.ByName(name)
		if !known {
			return "", nil, fmt.Errorf("%w: %s", ErrUnknown, name)
		}
		if other, taken := now.ByKey(k); taken && other.Name != name {
			return "", nil, fmt.Errorf("this key is %w as %s", ErrTaken, other.Name)
		}
		lines := slices.Collect(strings.Lines(text))
		if n := lineOf(text, table+"."+name, "key"); n > 0 {
			lines[n-1] = strings.ReplaceAll(lines[n-1], p.Key.String(), k.String())
		}
		p.Key = k
		return strings.Join(lines, ""), append(without(now, name), p), nil
	})
}

// Remove takes a peer out of the file at path. Comments above its table stay.
func Remove(path, name string) error {
	return change(path, func(text string, now *Peers) (string, []Peer, error) {
		if _, known := now.ByName(name); !known {
			return "", nil, fmt.Errorf("%w: %s", ErrUnknown, name)
		}
		var kept, held []string // held are the lines above the next table, which belong to it
		inside := false
		release := func() {
			for len(kept) > 0 && len(held) > 0 && blank(kept[len(kept)-1]) && blank(held[0]) {
				held = held[1:]
			}
			kept, held = append(kept, held...), nil
		}
		for line := range strings.Lines(text) {
			if t, ok := header(line); ok {
				inside = t == table+"."+name
				release()
			}
			switch {
			case !inside:
				kept = append(kept, line)
			case blank(line) || strings.HasPrefix(strings.TrimSpace(line), "#"):
				held = append(held, line)
			default:
				held = nil
			}
		}
		release()
		return strings.Join(kept, ""), without(now, name), nil
	})
}

func blank(line string) bool { return strings.TrimSpace(line) == "" }

func without(p *Peers, name string) []Peer {
	return slices.DeleteFunc(p.All(), func(x Peer) bool { return x.Name == name })
}

// change replaces the file at path by what edit makes of its text. Nothing is written unless the new
// text holds exactly the peers that edit says.
func change(path string, edit func(text string, now *Peers) (string, []Peer, error)) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make a directory for the known peers: %w", err)
	}
	unlock, err := lock(path)
	if err != nil {
		return err
	}
	defer unlock()
	text, mode, err := readPeers(path)
	if err != nil {
		return err
	}
	now, err := parseAt(path, text)
	if err != nil {
		return err
	}
	fresh, list, err := edit(text, now)
	if err != nil || fresh == text && reflect.DeepEqual(list, now.All()) {
		return err
	}
	want, err := newPeers(list)
	if err != nil {
		return err
	}
	if got, err := parse(fresh); err != nil || !reflect.DeepEqual(got.All(), want.All()) {
		return fmt.Errorf("%s: %w", path, ErrForm)
	}
	if len(fresh) > peersBytes {
		return &FileError{Path: path, Message: fmt.Sprintf("it would have more than %d bytes", peersBytes)}
	}
	if err := replace(path, []byte(fresh), mode); err != nil {
		return fmt.Errorf("save the known peers: %w", err)
	}
	return nil
}
