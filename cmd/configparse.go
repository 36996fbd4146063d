package cmd

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"adit/internal/identity"

	"github.com/BurntSushi/toml"
	"github.com/urfave/cli/v2"
)

// A configFile is what a config file says.
type configFile struct {
	path     string // "" if there is none
	settings map[string]setting
	peers    []identity.Peer
	forwards []forwardEntry
}

// A setting is one value of the config file in the text form that a flag would take; a list has
// several.
type setting struct {
	values []string
	line   int // 0 if it is not known
}

// A forwardEntry is one [[forward]]: what "adit connect NAME" forwards if its command line says
// nothing of that. Its texts are those of -L, -R and -D.
type forwardEntry struct {
	peer    string
	local   []string
	remote  []string
	dynamic []string
	line    int
}

// A configError says what is wrong in a config file, where, and what would be right.
type configError struct {
	line    int // 0 if it is not known
	message string
	hint    string
}

func (e *configError) Error() string { return e.message }

// A kind is the type of a flag's value, by which a value of the file is checked.
type kind string

const (
	kindBool     kind = "true or false"
	kindInt      kind = "a number"
	kindDuration kind = `a time like "30s"`
	kindString   kind = "a text in quotes"
	kindList     kind = "a list of texts"
)

const (
	// Tables of the file that are not flags.
	peersTable   = "peers"   // [peers.NAME]
	forwardTable = "forward" // [[forward]]

	exampleHint = "config.example.toml shows every key"
)

func kindOf(f cli.Flag) kind {
	switch f.(type) {
	case *cli.BoolFlag:
		return kindBool
	case *cli.IntFlag:
		return kindInt
	case *cli.DurationFlag:
		return kindDuration
	case *cli.StringSliceFlag:
		return kindList
	}
	return kindString
}

// configKeys returns every key that stands for a flag, "table.key" or "key", with its kind, so that a
// new flag cannot lack a key. --config has none: the file does not name itself.
func configKeys(app *cli.App) map[string]kind {
	keys := make(map[string]kind)
	for _, c := range app.Commands {
		for _, f := range settings(c) {
			keys[keyOf(c.Name, f.Names()[0])] = kindOf(f)
		}
	}
	return keys
}

// settings returns the flags of c that have a variable and a key in the file. The own flags of some
// commands have none: they say what to do once, not how to do it always.
func settings(c *cli.Command) []cli.Flag {
	var flags []cli.Flag
	for _, f := range c.Flags {
		name := f.Names()[0]
		if name == "config" || name == "help" || deed(c.Name) && flagNamed(commonFlags(outputFlags), name) == nil {
			continue
		}
		flags = append(flags, f)
	}
	return flags
}

// deed reports whether the own flags of a command say what to do once.
func deed(command string) bool { return slices.Contains([]string{"key", "peers", "config"}, command) }

func keyOf(command, flag string) string {
	key := strings.ReplaceAll(flag, "-", "_")
	if table := tableOf(command, flag); table != "" {
		key = table + "." + key
	}
	return key
}

// parseConfig reads a config file's text. Its errors are *configError.
func parseConfig(text string, keys map[string]kind) (configFile, error) {
	var tree map[string]any
	if _, err := toml.Decode(text, &tree); err != nil {
		e := &configError{message: err.Error(), hint: "see https://toml.io for how a TOML file is written"}
		var p toml.ParseError
		if errors.As(err, &p) {
			e.line, e.message = p.Position.Line, p.Message
		}
		return configFile{}, e
	}
	out := configFile{settings: make(map[string]setting)}
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		v := tree[name]
		table, isTable := v.(map[string]any)
		switch {
		case name == peersTable:
			var err error
			if out.peers, err = peersIn(text, v); err != nil {
				return configFile{}, err
			}
		case name == forwardTable:
			var err error
			if out.forwards, err = forwardsIn(text, v); err != nil {
				return configFile{}, err
			}
		case !isTable:
			if err := addSetting(out.settings, text, keys, "", name, v); err != nil {
				return configFile{}, err
			}
		case !slices.Contains(tablesOf(keys), name):
			return configFile{}, unknownKey(text, keys, "", name, true)
		default:
			for _, key := range slices.Sorted(maps.Keys(table)) {
				if err := addSetting(out.settings, text, keys, name, key, table[key]); err != nil {
					return configFile{}, err
				}
			}
		}
	}
	return out, nil
}

// peersIn reads the tables [peers.NAME].
func peersIn(text string, v any) ([]identity.Peer, error) {
	peers, err := identity.Decode(text, v)
	var e *identity.FileError
	if errors.As(err, &e) {
		out := &configError{line: e.Line, message: e.Message, hint: exampleHint}
		if n := nearest(e.Unknown, e.Known); n != "" {
			out.hint = "did you mean " + n + "?"
		}
		return nil, out
	}
	for _, p := range peers {
		if err := checkPeer(p); err != nil {
			return nil, &configError{line: lineOf(text, peersTable+"."+p.Name, ""), message: fmt.Sprintf("[%s.%s]: %v", peersTable, p.Name, err), hint: exampleHint}
		}
	}
	return peers, err
}

// forwardsIn reads the tables [[forward]].
func forwardsIn(text string, v any) ([]forwardEntry, error) {
	list, ok := v.([]map[string]any)
	if !ok {
		return nil, &configError{line: lineOf(text, forwardTable, ""), message: "forward is written [[forward]], once for each", hint: exampleHint}
	}
	var out []forwardEntry
	for i, table := range list {
		start, end := nthTable(text, forwardTable, i)
		e := forwardEntry{line: start}
		at := func(key string) int { return lineWithin(text, start, end, key) }
		lists := map[string]*[]string{"local": &e.local, "remote": &e.remote, "dynamic": &e.dynamic}
		for _, key := range slices.Sorted(maps.Keys(table)) {
			switch to := lists[key]; {
			case to != nil:
				values, ok := textOf(kindList, table[key])
				if !ok {
					return nil, &configError{line: at(key), message: fmt.Sprintf("forward.%s is not %s", key, kindList), hint: exampleHint}
				}
				*to = values
			case key == "peer":
				if e.peer, ok = table[key].(string); !ok {
					return nil, &configError{line: at(key), message: fmt.Sprintf("forward.peer is not %s", kindString), hint: exampleHint}
				}
			default:
				bad := &configError{line: at(key), message: fmt.Sprintf("unknown key %q in [[forward]]", key), hint: exampleHint}
				if n := nearest(key, []string{"peer", "local", "remote", "dynamic"}); n != "" {
					bad.hint = "did you mean " + n + "?"
				}
				return nil, bad
			}
		}
		if err := identity.CheckName(e.peer); err != nil {
			return nil, &configError{line: start, message: "[[forward]] lacks the name of its peer", hint: `for example: peer = "home"`}
		}
		if len(e.local)+len(e.remote)+len(e.dynamic) == 0 {
			return nil, &configError{line: start, message: "[[forward]] forwards nothing", hint: `for example: local = "2222:localhost:22"`}
		}
		if err := checkForwards(e); err != nil {
			return nil, &configError{line: start, message: fmt.Sprintf("[[forward]]: %v", err), hint: exampleHint}
		}
		out = append(out, e)
	}
	return out, nil
}

func addSetting(out map[string]setting, text string, keys map[string]kind, table, name string, v any) error {
	full := name
	if table != "" {
		full = table + "." + name
	}
	k, known := keys[full]
	if !known {
		return unknownKey(text, keys, table, name, false)
	}
	values, ok := textOf(k, v)
	line := lineOf(text, table, name)
	if !ok {
		return &configError{line: line, message: fmt.Sprintf("%s is not %s", full, k), hint: exampleHint}
	}
	out[full] = setting{values: values, line: line}
	return nil
}

// textOf turns a TOML value into the text a flag takes, if it has the right kind.
func textOf(k kind, v any) ([]string, bool) {
	switch v := v.(type) {
	case bool:
		return []string{strconv.FormatBool(v)}, k == kindBool
	case int64:
		return []string{strconv.FormatInt(v, 10)}, k == kindInt
	case string:
		if k == kindDuration {
			_, err := time.ParseDuration(v)
			return []string{v}, err == nil
		}
		return []string{v}, k == kindString || k == kindList
	case []any:
		values := make([]string, 0, len(v))
		for _, x := range v {
			s, ok := x.(string)
			if !ok {
				return nil, false
			}
			values = append(values, s)
		}
		return values, k == kindList
	}
	return nil, false
}

// tablesOf returns the tables that a file may have.
func tablesOf(keys map[string]kind) []string {
	tables := []string{forwardTable, peersTable}
	for k := range keys {
		if t, _, inTable := strings.Cut(k, "."); inTable && !slices.Contains(tables, t) {
			tables = append(tables, t)
		}
	}
	slices.Sort(tables)
	return tables
}

func unknownKey(text string, keys map[string]kind, table, name string, isTable bool) error {
	e := &configError{line: lineOf(text, table, name), hint: exampleHint}
	if isTable {
		e.message = fmt.Sprintf("unknown table [%s]", name)
		e.line = lineOf(text, name, "")
		if n := nearest(name, tablesOf(keys)); n != "" {
			e.hint = "did you mean [" + n + "]?"
		}
		return e
	}
	e.message = fmt.Sprintf("unknown key %q", name)
	var near []string
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		t, key, inTable := strings.Cut(k, ".")
		if !inTable {
			t, key = "", k
		}
		if t == table {
			near = append(near, key)
		}
		if key == name && t != table && e.hint == exampleHint {
			e.hint = fmt.Sprintf("%s belongs at the top of the file, in front of every [table]", key)
			if t != "" {
				e.hint = fmt.Sprintf("%s belongs in the table [%s]", key, t)
			}
		}
	}
	if table != "" {
		e.message += " in [" + table + "]"
	}
	if n := nearest(name, near); n != "" {
		e.hint = "did you mean " + n + "?"
	}
	return e
}

// lineOf finds the line where a key of a table stands, or with no key the table itself; 0 if it is
// written in a way this does not follow. The decoder does not tell.
func lineOf(text, table, key string) int {
	at := ""
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			at = tableIn(line)
			if key == "" && at == table {
				return i + 1
			}
			continue
		}
		left, _, found := strings.Cut(line, "=")
		left = strings.Trim(left, " \t\"'")
		if found && (at == table && left == key || at == "" && left == table+"."+key) {
			return i + 1
		}
	}
	return 0
}

// tableIn returns the name of the table that begins in a line.
func tableIn(line string) string {
	line = strings.TrimLeft(line, "[ \t")
	return strings.Trim(line[:strings.IndexByte(line+"]", ']')], " \t\"'")
}

// nthTable finds the lines of the n-th table of an array: that of its header, and that behind its end.
// They are 0 if it is written in a way this does not follow.
func nthTable(text, name string, n int) (start, end int) {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "[") {
			continue
		}
		if start > 0 {
			return start, i + 1
		}
		if strings.HasPrefix(line, "[[") && tableIn(line) == name {
			if n == 0 {
				start = i + 1
			}
			n--
		}
	}
	if start > 0 {
		end = len(lines) + 1
	}
	return start, end
}

// lineWithin finds the line of a key between two lines.
func lineWithin(text string, start, end int, key string) int {
	for i, line := range strings.Split(text, "\n") {
		left, _, found := strings.Cut(line, "=")
		if n := i + 1; found && n > start && n < end && strings.Trim(left, " \t\"'") == key {
			return n
		}
	}
	return start
}
