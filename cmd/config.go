package cmd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/urfave/cli/v2"
)

const (
	defaultConfigName = "adit/config.toml in the user's configuration directory"

	// configBytes bounds the config file: a wrong path must not fill the memory.
	configBytes = 1 << 20

	// configMeta names the flags set by the file in the metadata of a run.
	configMeta = "set by the config file"
)

// A setting is one value of the config file in the text form that a flag would take; a list has
// several.
type setting struct {
	values []string
	line   int // 0 if it is not known
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

// configKeys returns every key a config file may hold, "table.key" or "key", with its kind. They are
// the flags, so that a new flag cannot lack a key. --config has none: the file does not name itself.
func configKeys(app *cli.App) map[string]kind {
	keys := make(map[string]kind)
	for _, c := range app.Commands {
		for _, f := range c.Flags {
			if name := f.Names()[0]; name != "config" && name != "help" {
				keys[keyOf(c.Name, name)] = kindOf(f)
			}
		}
	}
	return keys
}

func keyOf(command, flag string) string {
	key := strings.ReplaceAll(flag, "-", "_")
	if table := tableOf(command, flag); table != "" {
		key = table + "." + key
	}
	return key
}

// parseConfig reads a config file's text. Its errors are *configError.
func parseConfig(text string, keys map[string]kind) (map[string]setting, error) {
	var tree map[string]any
	if _, err := toml.Decode(text, &tree); err != nil {
		var p toml.ParseError
		if errors.As(err, &p) {
			return nil, &configError{line: p.Position.Line, message: p.Message, hint: "see https://toml.io for how a TOML file is written"}
		}
		return nil, &configError{message: err.Error(), hint: "see https://toml.io for how a TOML file is written"}
	}
	out := make(map[string]setting)
	for name, v := range tree {
		table, isTable := v.(map[string]any)
		if !isTable {
			if err := addSetting(out, text, keys, "", name, v); err != nil {
				return nil, err
			}
			continue
		}
		if !slices.Contains(tablesOf(keys), name) {
			return nil, unknownKey(text, keys, "", name, true)
		}
		for key, v := range table {
			if err := addSetting(out, text, keys, name, key, v); err != nil {
				return nil, err
			}
		}
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
		return &configError{line: line, message: fmt.Sprintf("%s is not %s", full, k), hint: "config.example.toml shows every key"}
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

func tablesOf(keys map[string]kind) []string {
	var tables []string
	for k := range keys {
		if t, _, inTable := strings.Cut(k, "."); inTable && !slices.Contains(tables, t) {
			tables = append(tables, t)
		}
	}
	return tables
}

func unknownKey(text string, keys map[string]kind, table, name string, isTable bool) error {
	e := &configError{line: lineOf(text, table, name), hint: "config.example.toml shows every key"}
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
	for k := range keys {
		t, key, inTable := strings.Cut(k, ".")
		if !inTable {
			t, key = "", k
		}
		if t == table {
			near = append(near, key)
		}
		if key == name && t != table {
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
			at = strings.Trim(line[:strings.IndexByte(line+"]", ']')], "[ ]\t\"'")
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

// defaultConfigFile returns where the config file is looked for if nobody names one, or "".
func defaultConfigFile() string {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if dir == "" && runtime.GOOS == "windows" {
		dir = os.Getenv("APPDATA")
	}
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "" // a user without a home has no config file either
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "adit", "config.toml")
}

// applyConfig gives every flag of c that neither the command line nor a variable has set its value
// from the config file.
func applyConfig(u *ui, c *cli.Context) error {
	path, named := c.String("config"), true
	if path == "" {
		path, named = defaultConfigFile(), false
	}
	if path == "" {
		return nil
	}
	text, err := readConfig(path)
	if err != nil {
		switch {
		case !named && errors.Is(err, os.ErrNotExist):
			return nil
		case !named && errors.Is(err, os.ErrPermission): // a home that is somebody else's, as under sudo -u
			u.say("going on without the config file: %v", err)
			return nil
		}
		return usagef("check --config, or the file's permissions", "read the config file: %v", err)
	}
	settings, err := parseConfig(text, configKeys(c.App))
	if err != nil {
		return inFile(path, err)
	}
	for _, f := range c.Command.Flags {
		name := f.Names()[0]
		s, given := settings[keyOf(c.Command.Name, name)]
		if !given || c.IsSet(name) {
			continue
		}
		inConfig, _ := c.App.Metadata[configMeta].(map[string]bool)
		if inConfig == nil {
			inConfig = make(map[string]bool)
			c.App.Metadata[configMeta] = inConfig
		}
		inConfig[name] = true
		for _, v := range s.values {
			if err := c.Set(name, v); err != nil {
				return inFile(path, &configError{line: s.line, message: fmt.Sprintf("%s: %v", keyOf(c.Command.Name, name), err)})
			}
		}
	}
	return nil
}

// fromConfig reports whether a flag got its value from the config file.
func fromConfig(c *cli.Context, flag string) bool {
	inConfig, _ := c.App.Metadata[configMeta].(map[string]bool)
	return inConfig[flag]
}

func readConfig(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, configBytes+1))
	if err == nil && len(b) > configBytes {
		err = fmt.Errorf("%s is larger than %d bytes", path, configBytes)
	}
	return string(b), err
}

func inFile(path string, err error) error {
	var e *configError
	if !errors.As(err, &e) {
		return err
	}
	at := path
	if e.line > 0 {
		at = fmt.Sprintf("%s:%d", path, e.line)
	}
	return usagef(e.hint, "%s: %s", at, e.message)
}
