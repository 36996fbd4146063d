package identity

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

const (
	maxNameBytes = 63
	table        = "peers" // where peers stand in a file: [peers.NAME]
)

// ErrName is unwrapped by the errors of names that no peer may have.
var ErrName = errors.New("not a name for a peer")

// A Peer is what this side knows of a peer, and lets it do. What is nil or zero was not said.
type Peer struct {
	Name   string
	Key    PublicKey
	Signal []string // URLs of rendezvous where it is met

	// Rules of its policy, in the grammar of package tunnel, which is not checked here. An empty list
	// is not nil: it allows nothing.
	Allow   []string // what it may connect to
	Local   *bool    // whether it may connect at all
	Remote  []string // where it may have this side listen
	Dynamic []string // what it may reach by SOCKS
	Streams *int     // how many streams it may have
}

// A FileError says what is wrong in a file of peers, and where.
type FileError struct {
	Path    string // "" if the text is not from a file
	Line    int    // 0 if it is not known
	Message string
	Unknown string   // the key that is not known, if that is what is wrong
	Known   []string // those that are, in its place
}

func (e *FileError) Error() string {
	switch {
	case e.Path == "":
		return e.Message
	case e.Line == 0:
		return e.Path + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Message)
}

// A KeyChangedError says that a peer comes with another key than the one that is known by its name.
type KeyChangedError struct {
	Name       string
	Known, Got PublicKey
}

func (e *KeyChangedError) Error() string {
	return fmt.Sprintf("the key of %s has changed: known is %s, and this is %s", e.Name, e.Known.Fingerprint(), e.Got.Fingerprint())
}

// CheckName returns an error that wraps ErrName and says what is wrong, if name cannot be a peer's:
// it has up to 63 lower-case letters, digits, - and _, and begins with a letter. So it is never a
// code, an address or a flag.
func CheckName(name string) error {
	bad := func(why string) error { return fmt.Errorf("%w: %.64q %s", ErrName, name, why) }
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty", ErrName)
	case len(name) > maxNameBytes:
		return bad(fmt.Sprintf("has more than %d letters", maxNameBytes))
	case name[0] < 'a' || name[0] > 'z':
		return bad("does not begin with a lower-case letter")
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return bad("has something in it besides lower-case letters, digits, - and _")
		}
	}
	return nil
}

// Peers is a set of peers with different names and keys. It is not changed once it is made. The nil
// *Peers is empty.
type Peers struct {
	list  []Peer // by name
	named map[string]Peer
	keyed map[PublicKey]string
}

// newPeers makes a set. One key under two names is an error.
func newPeers(list []Peer) (*Peers, error) {
	p := &Peers{list: append([]Peer(nil), list...), named: make(map[string]Peer), keyed: make(map[PublicKey]string)}
	slices.SortFunc(p.list, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
	for _, x := range p.list {
		p.named[x.Name] = x
		if x.Key.IsZero() {
			continue
		}
		if other, twice := p.keyed[x.Key]; twice {
			return nil, &FileError{Message: fmt.Sprintf("%s and %s have the same key", other, x.Name)}
		}
		p.keyed[x.Key] = x.Name
	}
	return p, nil
}

// All returns the peers, by name.
func (p *Peers) All() []Peer {
	if p == nil {
		return nil
	}
	return slices.Clone(p.list)
}

// ByName returns the peer of that name.
func (p *Peers) ByName(name string) (Peer, bool) {
	if p == nil {
		return Peer{}, false
	}
	x, ok := p.named[name]
	return x, ok
}

// ByKey returns the peer with that key.
func (p *Peers) ByKey(k PublicKey) (Peer, bool) {
	if p == nil || k.IsZero() {
		return Peer{}, false
	}
	return p.ByName(p.keyed[k])
}

// Names returns the names of the peers, sorted.
func (p *Peers) Names() []string {
	names := make([]string, 0, len(p.All()))
	for _, x := range p.All() {
		names = append(names, x.Name)
	}
	return names
}

// Merge returns the peers of p and those of over, which says more of a peer of the same name, or
// something else, but never another key: that is a *KeyChangedError.
func (p *Peers) Merge(over []Peer) (*Peers, error) {
	merged := make(map[string]Peer)
	for _, x := range p.All() {
		merged[x.Name] = x
	}
	for _, o := range over {
		x, known := merged[o.Name]
		if known && !o.Key.IsZero() && !x.Key.IsZero() && o.Key != x.Key {
			return nil, &KeyChangedError{Name: o.Name, Known: x.Key, Got: o.Key}
		}
		x.Name = o.Name
		if !o.Key.IsZero() {
			x.Key = o.Key
		}
		if o.Signal != nil {
			x.Signal = o.Signal
		}
		if o.Allow != nil {
			x.Allow = o.Allow
		}
		if o.Local != nil {
			x.Local = o.Local
		}
		if o.Remote != nil {
			x.Remote = o.Remote
		}
		if o.Dynamic != nil {
			x.Dynamic = o.Dynamic
		}
		if o.Streams != nil {
			x.Streams = o.Streams
		}
		merged[o.Name] = x
	}
	return newPeers(slices.Collect(maps.Values(merged)))
}

// parse reads the text of a file of peers. Its errors are *FileError.
func parse(text string) (*Peers, error) {
	var tree map[string]any
	if _, err := toml.Decode(text, &tree); err != nil {
		e := &FileError{Message: err.Error()}
		var p toml.ParseError
		if errors.As(err, &p) {
			e.Line, e.Message = p.Position.Line, p.Message
		}
		return nil, e
	}
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		if name != table {
			return nil, &FileError{Line: lineOf(text, "", name), Message: fmt.Sprintf("unknown key %q: a peer stands in a table [%s.NAME]", name, table), Unknown: name, Known: []string{table}}
		}
	}
	list, err := Decode(text, tree[table])
	if err != nil {
		return nil, err
	}
	return newPeers(list)
}

// peerKeys are the keys of a peer's table.
var peerKeys = []string{"key", "signal", "allow", "local", "remote", "dynamic", "streams"}

// Keys returns the keys that a peer's table may have.
func Keys() []string { return slices.Clone(peerKeys) }

// Decode reads the table [peers] of a decoded TOML file; nil is an empty one. The text is for the
// lines of errors, which are *FileError.
func Decode(text string, peers any) ([]Peer, error) {
	if peers == nil {
		return nil, nil
	}
	tree, ok := peers.(map[string]any)
	if !ok {
		return nil, &FileError{Line: lineOf(text, "", table), Message: fmt.Sprintf("%s is not a table: write [%s.NAME]", table, table)}
	}
	var list []Peer
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		fields, ok := tree[name].(map[string]any)
		if !ok {
			return nil, &FileError{Line: lineOf(text, table, name), Message: fmt.Sprintf("%s stands in no peer's table: write [%s.NAME] above it", name, table), Unknown: name, Known: nil}
		}
		if err := CheckName(name); err != nil {
			return nil, &FileError{Line: lineOf(text, table+"."+name, ""), Message: err.Error()}
		}
		p := Peer{Name: name}
		for _, key := range slices.Sorted(maps.Keys(fields)) {
			if e := p.set(key, fields[key]); e != nil {
				e.Line = lineOf(text, table+"."+name, key)
				return nil, e
			}
		}
		list = append(list, p)
	}
	return list, nil
}

// set gives p what stands at one key of its table.
func (p *Peer) set(key string, v any) *FileError {
	wrong := func(want string) *FileError {
		return &FileError{Message: fmt.Sprintf("%s.%s.%s is not %s", table, p.Name, key, want)}
	}
	lists := map[string]*[]string{"signal": &p.Signal, "allow": &p.Allow, "remote": &p.Remote, "dynamic": &p.Dynamic}
	if to := lists[key]; to != nil {
		if *to = textsOf(v); *to == nil {
			return wrong("a list of texts")
		}
		return nil
	}
	switch key {
	case "key":
		s, ok := v.(string)
		if !ok {
			return wrong("a text in quotes")
		}
		k, err := ParsePublicKey(s)
		if err != nil {
			return &FileError{Message: fmt.Sprintf("%s.%s.key: %v", table, p.Name, err)}
		}
		p.Key = k
	case "local":
		b, ok := v.(bool)
		if !ok {
			return wrong("true or false")
		}
		p.Local = &b
	case "streams":
		n, ok := v.(int64)
		if !ok || n < 0 || n > 1<<20 {
			return wrong("a number of streams")
		}
		small := int(n)
		p.Streams = &small
	default:
		return &FileError{Message: fmt.Sprintf("unknown key %q in [%s.%s]", key, table, p.Name), Unknown: key, Known: Keys()}
	}
	return nil
}

// textsOf returns a list of texts, or one text as a list; nil if v is something else.
func textsOf(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		texts := make([]string, 0, len(v))
		for _, x := range v {
			s, ok := x.(string)
			if !ok {
				return nil
			}
			texts = append(texts, s)
		}
		return texts
	}
	return nil
}

// lineOf finds the line where a key of a table stands, or with no key the table itself; 0 if it is
// written in a way that this does not follow. The decoder does not tell.
func lineOf(text, in, key string) int {
	at := ""
	n := 0
	for line := range strings.Lines(text) {
		n++
		if t, ok := header(line); ok {
			if at = t; key == "" && at == in {
				return n
			}
			if in == "" && (at == key || strings.HasPrefix(at, key+".")) {
				return n
			}
			continue
		}
		left, _, found := strings.Cut(line, "=")
		if found && at == in && strings.Trim(left, " \t\"'") == key {
			return n
		}
	}
	return 0
}

// header returns the name of the table that begins in a line, without quotes and spaces.
func header(line string) (string, bool) {
	s, ok := strings.CutPrefix(strings.TrimSpace(line), "[")
	if !ok {
		return "", false
	}
	s, _, _ = strings.Cut(strings.TrimPrefix(s, "["), "]")
	parts := strings.Split(s, ".")
	for i := range parts {
		parts[i] = strings.Trim(parts[i], " \t\"'")
	}
	return strings.Join(parts, "."), true
}
