package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"adit/internal/identity"
	"adit/internal/plan"
	"adit/internal/suggest"

	"github.com/BurntSushi/toml"
)

// A Kind is the type of a setting's value.
type Kind string

// The kinds, in the words of an error.
const (
	Bool     Kind = "true or false"
	Int      Kind = "a number"
	Duration Kind = `a time like "30s"`
	String   Kind = "a text in quotes"
	List     Kind = "a list of texts"
)

const (
	// Tables of the file that are not flags.
	PeersTable   = "peers"   // [peers.NAME]
	ForwardTable = "forward" // [[forward]]

	exampleHint = "config.example.toml shows every key"
)

// An Error says what is wrong in a config file, where, and what would be right.
type Error struct {
	Line    int // 0 if it is not known
	Message string
	Hint    string
}

func (e *Error) Error() string { return e.Message }

// A parser is a file that is read; what is wrong is collected.
type parser struct {
	text string
	keys map[string]Kind
	out  File
	errs []*Error
}

func (p *parser) wrong(line int, hint, format string, args ...any) {
	p.errs = append(p.errs, &Error{line, fmt.Sprintf(format, args...), hint})
}

// Parse reads a config file's text. keys are those that stand for settings, "table.key" or "key". It returns all that is
// wrong, in the order of the lines; what is right is in the File.
func Parse(text string, keys map[string]Kind) (File, []*Error) {
	p := &parser{text: text, keys: keys, out: File{Settings: make(map[string]Setting)}}
	var tree map[string]any
	if _, err := toml.Decode(text, &tree); err != nil {
		e := &Error{Message: err.Error(), Hint: "see https://toml.io for how a TOML file is written"}
		var at toml.ParseError
		if errors.As(err, &at) {
			e.Line, e.Message = at.Position.Line, at.Message
		}
		return p.out, []*Error{e}
	}
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		v := tree[name]
		table, isTable := v.(map[string]any)
		switch {
		case name == PeersTable:
			p.peers(v)
		case name == ForwardTable:
			p.forwards(v)
		case !isTable:
			p.setting("", name, v)
		case !slices.Contains(tablesOf(keys), name):
			p.unknownTable(name)
		default:
			for _, key := range slices.Sorted(maps.Keys(table)) {
				p.setting(name, key, table[key])
			}
		}
	}
	slices.SortStableFunc(p.errs, func(a, b *Error) int { return a.Line - b.Line })
	return p.out, p.errs
}

// peers reads the tables [peers.NAME].
func (p *parser) peers(v any) {
	peers, err := identity.Decode(p.text, v)
	var e *identity.FileError
	switch {
	case errors.As(err, &e):
		hint := exampleHint
		if n := suggest.Nearest(e.Unknown, e.Known); n != "" {
			hint = "did you mean " + n + "?"
		}
		p.wrong(e.Line, hint, "%s", e.Message)
	case err != nil:
		p.wrong(0, exampleHint, "%v", err)
	}
	for _, peer := range peers {
		if err := CheckPeer(peer); err != nil {
			p.wrong(lineOf(p.text, PeersTable+"."+peer.Name, ""), exampleHint, "[%s.%s]: %v", PeersTable, peer.Name, err)
		}
	}
	p.out.Peers = peers
}

// forwards reads the tables [[forward]].
func (p *parser) forwards(v any) {
	list, ok := v.([]map[string]any)
	if !ok {
		p.wrong(lineOf(p.text, ForwardTable, ""), exampleHint, "forward is written [[forward]], once for each")
		return
	}
	for i, table := range list {
		p.forward(i, table)
	}
}

func (p *parser) forward(i int, table map[string]any) {
	start, end := nthTable(p.text, ForwardTable, i)
	e := Forward{Line: start}
	before := len(p.errs)
	at := func(key string) int { return lineWithin(p.text, start, end, key) }
	lists := map[string]*[]string{"local": &e.Texts.Local, "remote": &e.Texts.Remote, "dynamic": &e.Texts.Dynamic}
	for _, key := range slices.Sorted(maps.Keys(table)) {
		switch to := lists[key]; {
		case to != nil:
			values, ok := valueOf(List, table[key])
			if !ok {
				p.wrong(at(key), exampleHint, "forward.%s is not %s", key, List)
				continue
			}
			*to = values.([]string)
		case key == "peer":
			var ok bool
			if e.Peer, ok = table[key].(string); !ok {
				p.wrong(at(key), exampleHint, "forward.peer is not %s", String)
			}
		default:
			hint := exampleHint
			if n := suggest.Nearest(key, []string{"peer", "local", "remote", "dynamic"}); n != "" {
				hint = "did you mean " + n + "?"
			}
			p.wrong(at(key), hint, "unknown key %q in [[forward]]", key)
		}
	}
	if len(p.errs) > before {
		return // what follows may come of that
	}
	if identity.CheckName(e.Peer) != nil {
		p.wrong(start, `for example: peer = "home"`, "[[forward]] lacks the name of its peer")
		return
	}
	if e.Texts.Empty() {
		p.wrong(start, `for example: local = "2222:localhost:22"`, "[[forward]] forwards nothing")
		return
	}
	if _, err := plan.Parse(e.Texts); err != nil {
		p.wrong(start, exampleHint, "[[forward]]: %v", err)
		return
	}
	p.out.Forwards = append(p.out.Forwards, e)
}

func (p *parser) setting(table, name string, v any) {
	full := name
	if table != "" {
		full = table + "." + name
	}
	k, known := p.keys[full]
	if !known {
		p.unknownKey(table, name)
		return
	}
	line := lineOf(p.text, table, name)
	value, ok := valueOf(k, v)
	if !ok {
		p.wrong(line, exampleHint, "%s is not %s", full, k)
		return
	}
	p.out.Settings[full] = Setting{Value: value, Line: line}
}

// valueOf turns a TOML value into that of a setting, if it has the right kind: bool, int, string, []string or
// time.Duration.
func valueOf(k Kind, v any) (any, bool) {
	switch v := v.(type) {
	case bool:
		return v, k == Bool
	case int64:
		if k == Duration {
			return time.Duration(v) * time.Second, v >= -maxSeconds && v <= maxSeconds
		}
		return int(v), k == Int
	case string:
		switch k {
		case Duration:
			d, err := ParseDuration(v)
			return d, err == nil
		case List:
			return []string{v}, true
		}
		return v, k == String
	case []any:
		values := make([]string, 0, len(v))
		for _, x := range v {
			s, ok := x.(string)
			if !ok {
				return nil, false
			}
			values = append(values, s)
		}
		return values, k == List
	}
	return nil, false
}

// maxSeconds bounds durations that are numbers: a century.
const maxSeconds = 100 * 366 * 86400

// ParseDuration reads a time with its unit, or a number of seconds.
func ParseDuration(s string) (time.Duration, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return d, nil
	}
	return time.ParseDuration(s + "s")
}

// tablesOf returns the tables that a file may have.
func tablesOf(keys map[string]Kind) []string {
	tables := []string{ForwardTable, PeersTable}
	for k := range keys {
		if t, _, inTable := strings.Cut(k, "."); inTable && !slices.Contains(tables, t) {
			tables = append(tables, t)
		}
	}
	slices.Sort(tables)
	return tables
}

func (p *parser) unknownTable(name string) {
	hint := exampleHint
	if n := suggest.Nearest(name, tablesOf(p.keys)); n != "" {
		hint = "did you mean [" + n + "]?"
	}
	p.wrong(lineOf(p.text, name, ""), hint, "unknown table [%s]", name)
}

func (p *parser) unknownKey(table, name string) {
	hint := exampleHint
	var near []string
	for _, k := range slices.Sorted(maps.Keys(p.keys)) {
		t, key, inTable := strings.Cut(k, ".")
		if !inTable {
			t, key = "", k
		}
		if t == table {
			near = append(near, key)
		}
		if key == name && t != table && hint == exampleHint {
			hint = fmt.Sprintf("%s belongs at the top of the file, in front of every [table]", key)
			if t != "" {
				hint = fmt.Sprintf("%s belongs in the table [%s]", key, t)
			}
		}
	}
	if n := suggest.Nearest(name, near); n != "" {
		hint = "did you mean " + n + "?"
	}
	message := fmt.Sprintf("unknown key %q", name)
	if table != "" {
		message += " in [" + table + "]"
	}
	p.wrong(lineOf(p.text, table, name), hint, "%s", message)
}
