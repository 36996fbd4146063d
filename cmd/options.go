package cmd

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"adit/internal/config"
	"adit/internal/fail"
	"adit/internal/suggest"

	"github.com/urfave/cli/v2"
)

// The options of a command are a struct, which is filled once: from the command line, then from variables, then from the
// config file, and else with defaults. What a command does sees that struct and nothing of where it came from.
//
// An option's name fixes its variable and its key in the file: --external-ip of serve is ADIT_SERVE_EXTERNAL_IP and
// external_ip under [serve]; --signal, common to several commands, is ADIT_SIGNAL and signal at the top; --port, of those
// that find paths, is ADIT_PORT and port under [ice].

// An option is one thing that a command can be told.
type option struct {
	name, short string
	to          any      // the field that it fills: *bool, *int, *string, *[]string or *time.Duration; it holds the default
	usage       string   // a word in back quotes stands for the value
	none        string   // what help says in the place of an empty default
	values      []string // what completion offers
	path        bool     // completion offers files
	hidden      bool     // help leaves it out
	whole       bool     // of a list: commas are part of a value
	key         string   // in the config file; "" has none, and no variable
	variables   []string
}

// settings are the options of a command.
type settings interface {
	list() []option
	check(*complaints) // finds what is wrong with single values, and reads those that have a grammar
	common() *given
	output() *outputOptions
}

// A given is what the options of every command have: the arguments, and where values came from.
type given struct {
	args    []string
	file    config.File
	sources map[string]source // by the option's name; none for a default
	fresh   func() settings   // with defaults
}

func (g *given) common() *given { return g }

// arg returns the n-th argument, or "".
func (g *given) arg(n int) string {
	if n < len(g.args) {
		return g.args[n]
	}
	return ""
}

// set reports whether the command line or a variable gives an option: the config file does not change it then.
func (g *given) set(name string) bool { return g.sources[name].fixed }

// fromFile reports whether an option has its value from the config file.
func (g *given) fromFile(name string) bool {
	s, ok := g.sources[name]
	return ok && !s.fixed
}

// A source is where a value came from, as it stands in front of what is wrong with it.
type source struct {
	name  string // "--port", "$ADIT_PORT: " or "config.toml:3: ice.port: "
	from  string // "$ADIT_PORT" or "config.toml:3"; "" for the command line
	fixed bool   // not the file
}

// own gives the options of one command their variables and keys.
func own(command string, list ...option) []option {
	for i := range list {
		list[i].key = command + "." + keyed(list[i].name)
		list[i].variables = append([]string{variable(command + "_" + list[i].name)}, list[i].variables...)
	}
	return list
}

// shared gives the options of several commands their variables, and keys in a table; "" is the top of the file.
func shared(table string, list ...option) []option {
	for i := range list {
		list[i].key = keyed(list[i].name)
		if table != "" {
			list[i].key = table + "." + list[i].key
		}
		list[i].variables = []string{variable(list[i].name)}
	}
	return list
}

func keyed(name string) string { return strings.ReplaceAll(name, "-", "_") }

func variable(name string) string { return "ADIT_" + strings.ToUpper(keyed(name)) }

// kind returns the type of an option's value.
func (o option) kind() config.Kind {
	switch o.to.(type) {
	case *bool:
		return config.Bool
	case *int:
		return config.Int
	case *time.Duration:
		return config.Duration
	case *[]string:
		return config.List
	}
	return config.String
}

// put makes v the value: of the type that parse, and the config file, give.
func (o option) put(v any) { reflect.ValueOf(o.to).Elem().Set(reflect.ValueOf(v)) }

// parse reads a value as a variable has it; of a list, one with commas between.
func (o option) parse(text string) (v any, err error) {
	switch o.to.(type) {
	case *bool:
		v, err = strconv.ParseBool(text)
	case *int:
		v, err = strconv.Atoi(text)
	case *time.Duration:
		v, err = config.ParseDuration(text)
	case *[]string:
		if o.whole {
			return []string{text}, nil
		}
		return strings.Split(text, ","), nil
	default:
		return text, nil
	}
	if err != nil {
		err = fmt.Errorf("%q is not %s", text, o.kind())
	}
	return v, err
}

// A typed is the value of an option's flag.
type typed struct {
	option
	given bool // a list on the command line takes the place of the default
}

// Set is called for each time that the flag stands on the command line.
func (t *typed) Set(text string) error {
	v, err := t.parse(text)
	if err != nil {
		return err
	}
	if list, ok := t.to.(*[]string); ok {
		if !t.given {
			*list = nil
		}
		t.given = true
		v = append(*list, v.([]string)...)
	}
	t.put(v)
	return nil
}

// IsBoolFlag lets a switch stand without a value.
func (t *typed) IsBoolFlag() bool { return t.kind() == config.Bool }

// String is what the flag package wants of a value.
func (t *typed) String() string {
	if t == nil || t.to == nil {
		return ""
	}
	return t.text()
}

// text writes the value as a flag takes it.
func (o option) text() string {
	v := reflect.ValueOf(o.to).Elem()
	if list, ok := o.to.(*[]string); ok {
		return strings.Join(*list, ",")
	}
	if v.IsZero() && o.kind() != config.Bool {
		return ""
	}
	return fmt.Sprint(v)
}

// flags are what the parser of the command line takes for options.
func flags(list []option) []cli.Flag {
	var out []cli.Flag
	for _, o := range list {
		// Short names are permute's to know: the parser would set a flag with two names twice.
		out = append(out, &cli.GenericFlag{Name: o.name, Usage: o.usage, Value: &typed{option: o}, Hidden: o.hidden})
	}
	return out
}

// named returns the option of that name, or one letter, without dashes.
func named(list []option, name string) (option, bool) {
	for _, o := range list {
		if o.name == name || o.short != "" && o.short == name {
			return o, true
		}
	}
	return option{}, false
}

// complaints collects all that is wrong with a command's options.
type complaints struct {
	of   *given
	all  []*fail.Failure
	seen map[string]bool
}

// about says what is wrong with the value of an option; format goes on where the option's name ends.
func (c *complaints) about(name, hint, format string, args ...any) {
	from, ok := c.of.sources[name]
	if !ok {
		from.name = "--" + name + " "
	}
	c.add(fail.Usagef(hint, "%s%s", from.name, fmt.Sprintf(format, args...)))
}

// add takes in what is wrong, once.
func (c *complaints) add(f *fail.Failure) {
	if c.seen == nil {
		c.seen = make(map[string]bool)
	}
	if !c.seen[f.Message] {
		c.seen[f.Message] = true
		c.all = append(c.all, f)
	}
}

// err returns one failure for all, or nil.
func (c *complaints) err() error {
	if f := fail.Join(c.all); f != nil {
		return f
	}
	return nil
}

// fromLine notes what the command line has set.
func fromLine(o settings, isSet func(string) bool) {
	g := o.common()
	g.sources = make(map[string]source)
	for _, x := range o.list() {
		if isSet(x.name) {
			g.sources[x.name] = source{name: "--" + x.name + " ", fixed: true}
		}
	}
}

// fromVariables fills what the command line has not set. A variable that is empty says nothing, but for a text.
func fromVariables(o settings, bad *complaints) {
	g := o.common()
	for _, x := range o.list() {
		for _, name := range x.variables {
			text, set := os.LookupEnv(name)
			if _, before := g.sources[x.name]; before || !set || text == "" && x.kind() != config.String {
				continue
			}
			v, err := x.parse(text)
			if err != nil {
				bad.add(fail.Usagef("change the variable", "$%s: %v", name, err))
				continue
			}
			x.put(v)
			g.sources[x.name] = source{name: "$" + name + ": ", from: "$" + name, fixed: true}
		}
	}
}

// fromConfig fills what is left from the config file.
func fromConfig(o settings, file config.File) {
	g := o.common()
	g.file = file
	for _, x := range o.list() {
		s, given := file.Settings[x.key]
		if _, before := g.sources[x.name]; before || !given || x.key == "" {
			continue
		}
		x.put(s.Value)
		g.sources[x.name] = source{name: file.At(s.Line) + ": " + x.key + ": ", from: file.At(s.Line)}
	}
}

// reread returns the options as they are when the file is this one, after the same checks: what the command line and
// variables say stays.
func reread[P settings](o P, file config.File) (P, error) {
	n := o.common().fresh().(P)
	g := n.common()
	g.args, g.fresh, g.sources = o.common().args, o.common().fresh, make(map[string]source)
	before := o.list()
	for i, x := range n.list() {
		if s := o.common().sources[x.name]; s.fixed {
			x.put(reflect.ValueOf(before[i].to).Elem().Interface())
			g.sources[x.name] = s
		}
	}
	fromConfig(n, file)
	bad := &complaints{of: g}
	n.check(bad)
	return n, bad.err()
}

// load reads the config file that a command line names, or the default one.
func load(u *ui, command string, o settings) (config.File, error) {
	file, err := config.Load(o.output().config, keys())
	var unread *config.ReadError
	if errors.As(err, &unread) && !unread.Named && dispensable(command, unread.Err) {
		u.say("going on without the config file: %v", unread.Err)
		return config.File{}, nil
	}
	return file, err
}

// dispensable reports whether a command does without a config file that cannot be read for err: one in a home that is
// somebody else's, as under sudo -u. Those that follow its rules, or show them, do not: peers might do more than it says.
func dispensable(command string, err error) bool {
	return errors.Is(err, os.ErrPermission) && command != "config" && !slices.Contains(attended, command)
}

// keys returns every key of the config file that stands for an option, with its kind.
func keys() map[string]config.Kind {
	out := make(map[string]config.Kind)
	for _, c := range everyOptions() {
		for _, o := range c.options.list() {
			if o.key != "" {
				out[o.key] = o.kind()
			}
		}
	}
	return out
}

// testVariables are those of adit's own tests, which begin like those of options.
var testVariables = []string{"ADIT_TEST", "ADIT_SOAK", "ADIT_PORTMAP"}

// misspelt returns what is wrong with the names of variables that begin with ADIT_.
func misspelt() []*fail.Failure {
	known := slices.Clone(testVariables)
	for _, c := range everyOptions() {
		for _, o := range c.options.list() {
			known = append(known, o.variables...)
		}
	}
	var out []*fail.Failure
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, "ADIT_") || slices.Contains(known, name) {
			continue
		}
		hint := `the guide says how the variable of a flag is called`
		if n := suggest.Nearest(name, known); n != "" {
			hint = "did you mean $" + n + "?"
		}
		out = append(out, fail.Usagef(hint, "there is no variable $%s", name))
	}
	return out
}
