package cmd

import (
	"slices"
	"strings"

	"adit/internal/config"
	"adit/internal/fail"
	"adit/internal/handshake"
	"adit/internal/suggest"

	"github.com/urfave/cli/v2"
)

// optionNamed returns what the flag of that name, or letter, without dashes, fills.
func optionNamed(flags []cli.Flag, name string) (option, bool) {
	for _, f := range flags {
		if g, ok := f.(*cli.GenericFlag); ok { // each of ours is one
			if o := g.Value.(*typed).option; o.name == name || o.short != "" && o.short == name {
				return o, true
			}
		}
	}
	return option{}, false
}

func takesValue(o option) bool { return o.kind() != config.Bool }

// permute puts a command's flags in front of its positional arguments, because the flag parser stops
// at the first positional and a person does not. The command itself may stand after flags too.
//
// It accepts what ssh does: -L2222 for -L 2222. After -- everything is positional.
func permute(app *cli.App, args []string) ([]string, error) {
	command, rest, err := splitCommand(app, args)
	if err != nil || command == nil {
		return rest, err
	}
	var flags, positional []string
	for len(rest) > 0 {
		a := rest[0]
		rest = rest[1:]
		if a == "--" {
			positional = append(positional, rest...)
			break
		}
		if len(a) < 2 || a[0] != '-' {
			positional = append(positional, a)
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if name == "help" || name == "h" {
			return []string{command.Name, "--help"}, nil
		}
		f, known := optionNamed(command.Flags, name)
		if !known && a[1] != '-' {
			if short, ok := optionNamed(command.Flags, a[1:2]); ok && takesValue(short) {
				f, known, value, hasValue = short, true, a[2:], true
			}
		}
		if !known {
			return nil, unknownFlag(command, a, name)
		}
		name = f.name // the parser does not like two names of one flag
		if !takesValue(f) && !hasValue {
			flags = append(flags, "--"+name)
			continue
		}
		if !hasValue {
			if len(rest) == 0 {
				return nil, fail.Usagef(`"adit `+command.Name+` --help" shows what it takes`, "%s needs a value", a)
			}
			value, rest = rest[0], rest[1:]
		}
		if _, err := f.parse(value); err != nil {
			return nil, fail.Usagef(`"adit `+command.Name+` --help" shows what it takes`, "--%s %v", name, err)
		}
		flags = append(flags, "--"+name+"="+value)
	}
	out := append([]string{command.Name}, flags...)
	return append(append(out, "--"), positional...), nil
}

// splitCommand finds the command among args and returns it with the other arguments. With no command
// it returns nil and what to hand to the parser.
func splitCommand(app *cli.App, args []string) (*cli.Command, []string, error) {
	var before []string // flags in front of the command
	common := slices.Concat(flags(new(meetingOptions).list()), flags(new(outputOptions).list()))
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--help" || a == "-h":
			return nil, []string{"--help"}, nil
		case a == "--version":
			return app.Command("version"), nil, nil
		case len(a) > 1 && a[0] == '-':
			name, _, hasValue := strings.Cut(strings.TrimLeft(a, "-"), "=")
			f, known := optionNamed(common, name)
			if !known {
				return nil, nil, fail.Usagef(`flags go after the command; "adit --help" lists the commands`, "unknown flag %s in front of the command", a)
			}
			before = append(before, a)
			if takesValue(f) && !hasValue && i+1 < len(args) {
				i++
				before = append(before, args[i])
			}
		case a == "help" && i+1 < len(args) && args[i+1] == "paths":
			return nil, []string{"paths", "--help"}, nil
		case a == "help" && i+1 < len(args):
			c := app.Command(args[i+1])
			if c == nil {
				return nil, nil, unknownCommand(app, args[i+1])
			}
			return c, []string{"--help"}, nil
		case a == "help":
			return nil, []string{"--help"}, nil
		default:
			c := app.Command(a)
			if c == nil {
				return nil, nil, unknownCommand(app, a)
			}
			return c, append(before, args[i+1:]...), nil
		}
	}
	if len(before) > 0 {
		return nil, nil, fail.Usagef(`"adit --help" lists the commands`, "no command given")
	}
	return nil, []string{"--help"}, nil
}

func unknownCommand(app *cli.App, name string) error {
	if _, err := handshake.ParseCode(name); err == nil {
		return fail.Usagef("adit connect "+name+" --signal URL", "%s is a code, not a command", name)
	}
	if strings.HasPrefix(name, tokenPrefix) && len(name) > len(tokenPrefix)+40 {
		return fail.Usagef(`run "adit connect", and paste the line when it asks`, "this is a line to paste, not a command")
	}
	var known []string
	for _, c := range app.Commands {
		known = append(known, c.Names()...)
	}
	if n := suggest.Nearest(name, known); n != "" {
		return fail.Usagef(`did you mean "adit `+n+`"?`, "there is no command %q", name)
	}
	return fail.Usagef(`"adit --help" lists the commands`, "there is no command %q", name)
}

func unknownFlag(command *cli.Command, given, name string) error {
	var known []string
	for _, f := range command.Flags {
		if o, ok := optionNamed(command.Flags, f.Names()[0]); ok {
			known = append(known, o.name)
			if o.short != "" {
				known = append(known, o.short)
			}
		}
	}
	given, _, _ = strings.Cut(given, "=")
	if n := suggest.Nearest(name, known); n != "" {
		dashes := "--"
		if len(n) == 1 {
			dashes = "-"
		}
		return fail.Usagef("did you mean "+dashes+n+"?", "adit %s has no flag %s", command.Name, given)
	}
	return fail.Usagef(`"adit `+command.Name+` --help" lists its flags`, "adit %s has no flag %s", command.Name, given)
}
