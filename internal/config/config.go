// Package config reads adit's config file: settings, which flags and variables overrule, peers and forwards. It knows no
// flags; who reads says which keys there are. Everything that is wrong is reported at once, with its line.
package config

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"adit/internal/fail"
	"adit/internal/identity"
	"adit/internal/plan"
	"adit/tunnel"
)

// maxBytes bounds the config file: a wrong path must not fill the memory.
const maxBytes = 1 << 20

// A File is what a config file says. The zero File is none.
type File struct {
	Path     string // "" if there is none
	Settings map[string]Setting
	Peers    []identity.Peer
	Forwards []Forward
}

// A Setting is one value of the file: bool, int, string, []string or time.Duration.
type Setting struct {
	Value any
	Line  int // 0 if it is not known
}

// A Forward is one [[forward]]: what "adit connect NAME" forwards if its command line says nothing of that.
type Forward struct {
	Peer  string
	Texts plan.Texts
	Line  int
}

// ForwardsFor returns what the file has "adit connect NAME" forward, as -L, -R and -D would.
func (f File) ForwardsFor(peer string) (t plan.Texts) {
	for _, e := range f.Forwards {
		if e.Peer == peer {
			t.Local = append(t.Local, e.Texts.Local...)
			t.Remote = append(t.Remote, e.Texts.Remote...)
			t.Dynamic = append(t.Dynamic, e.Texts.Dynamic...)
		}
	}
	return t
}

// At names a line of the file.
func (f File) At(line int) string {
	if line == 0 {
		return f.Path
	}
	return f.Path + ":" + strconv.Itoa(line)
}

// DefaultPath returns where the config file is looked for if nobody names one, or "".
func DefaultPath() string {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if dir == "" && runtime.GOOS == "windows" {
		dir = os.Getenv("APPDATA")
	}
	if dir == "" {
		home, err := identity.Home()
		if err != nil {
			return "" // a user without a home has no config file either
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "adit", "config.toml")
}

// Load reads the file at path, or the default one if that is empty, which need not be there. Errors are *fail.Failure:
// all that is wrong in the file, or why it cannot be read, which unwraps to the system's error for a default file.
func Load(path string, keys map[string]Kind) (File, error) {
	named := path != ""
	if !named {
		if path = DefaultPath(); path == "" {
			return File{}, nil
		}
	}
	text, err := read(path)
	switch {
	case !named && errors.Is(err, os.ErrNotExist):
		return File{}, nil
	case errors.Is(err, os.ErrNotExist):
		return File{}, fail.Usagef("check the name, or leave it out for the default file", "there is no config file %s", path)
	case err != nil:
		return File{}, &ReadError{Failure: fail.Usagef("let this user read it (chmod, chown), or name another with --config", "read the config file: %v", err), Err: err, Named: named}
	}
	file, wrong := Parse(text, keys)
	file.Path = path
	var all []*fail.Failure
	for _, e := range wrong {
		all = append(all, fail.Usagef(e.Hint, "%s: %s", file.At(e.Line), e.Message))
	}
	if f := fail.Join(all); f != nil {
		return File{}, f
	}
	return file, nil
}

// A ReadError is the failure to read a file that is there.
type ReadError struct {
	*fail.Failure
	Err   error
	Named bool // by --config
}

// Unwrap returns the failure and the system's error.
func (e *ReadError) Unwrap() []error { return []error{e.Failure, e.Err} }

func read(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err == nil && len(b) > maxBytes {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxBytes)
	}
	return string(b), err
}

// Known returns the peers of the file that adit keeps, with what the config file says of them, or of others. Without a
// home there is no such file.
func (f File) Known() (*identity.Peers, error) {
	path, err := identity.PeersFile()
	if err != nil && !errors.Is(err, identity.ErrNoHome) {
		return nil, err
	}
	kept, err := identity.LoadPeers(path) // "" is a file that is not there
	if err != nil {
		return nil, err
	}
	for _, p := range kept.All() {
		if err := CheckPeer(p); err != nil {
			return nil, &identity.FileError{Path: path, Message: fmt.Sprintf("[%s.%s]: %v", PeersTable, p.Name, err)}
		}
	}
	if len(f.Peers) == 0 {
		return kept, nil
	}
	if err := trusted(f.Path); err != nil {
		return nil, err
	}
	merged, err := kept.Merge(f.Peers)
	var e *identity.FileError
	if errors.As(err, &e) {
		e.Path = f.Path
	}
	return merged, err
}

// trusted checks that others do not write the config file, where it says who may come in.
func trusted(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fail.Usagef("check --config, or the file's permissions", "read the config file: %v", err)
	}
	defer f.Close()
	return identity.Trusted(f)
}

// CheckPeer returns what is wrong with the rules of a peer, or the rendezvous where it is met.
func CheckPeer(p identity.Peer) error {
	for _, s := range p.Signal {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("%q is not the http(s) URL of a rendezvous", s)
		}
	}
	_, err := PolicyOf(p, tunnel.Policy{})
	return err
}

// PolicyOf returns the policy of a peer: what its rules say, and where they say nothing, base, which is what the
// command line named.
func PolicyOf(p identity.Peer, base tunnel.Policy) (tunnel.Policy, error) {
	policy := base
	for _, r := range []struct {
		key   string
		texts []string
		parse func([]string) ([]tunnel.Rule, error)
		to    *[]tunnel.Rule
	}{{"allow", p.Allow, tunnel.ParseOffers, &policy.Targets}, {"remote", p.Remote, tunnel.ParseRules, &policy.Remote}, {"dynamic", p.Dynamic, tunnel.ParseOffers, &policy.Dynamic}} {
		if r.texts == nil {
			continue
		}
		rules, err := r.parse(r.texts)
		if err != nil {
			return tunnel.Policy{}, fmt.Errorf("%s: %v", r.key, err)
		}
		*r.to = rules
	}
	if p.Local != nil {
		policy.NoLocal = !*p.Local
	}
	if p.Streams != nil {
		policy.MaxStreams = *p.Streams
	}
	return policy, nil
}
