package cmd

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// A flag's name fixes its variable and its key in the config file: --external-ip of serve is
// ADIT_SERVE_EXTERNAL_IP and external_ip under [serve]; --signal, common to several commands, is
// ADIT_SIGNAL and signal at the top; --port, of those that find paths, is ADIT_PORT and port under [ice].

// Which of the common flags a command takes.
const (
	outputFlags  = "output"  // how it prints
	meetingFlags = "meeting" // how it meets a peer
)

// iceTable holds the common flags that say by which ways a path is looked for.
const iceTable = "ice"

var iceFlags = []string{"stun", "port", "path", "turn", "turn-user", "turn-password", "no-port-mapping", "loopback"}

// commonFlags returns new flags of the given categories, because a cli.Flag holds its value.
func commonFlags(categories ...string) []cli.Flag {
	all := map[string][]cli.Flag{
		meetingFlags: {
			&cli.StringFlag{Name: "signal-token", Usage: "the token for a rendezvous that is not open to everybody; better in the variable or the config file, out of sight", Hidden: true},
			&cli.StringFlag{Name: "signal", Usage: "`HOW` the two find each other: paste, the URL of a rendezvous, or exec:CMD", DefaultText: "paste"},
			&cli.StringSliceFlag{Name: "stun", Usage: "`HOST:PORT` of a STUN server, several times if you like, or none", DefaultText: "the rendezvous' own, else public ones"},
			&cli.IntFlag{Name: "port", Usage: "fixed UDP port `N`", DefaultText: "any"},
			&cli.StringFlag{Name: "path", Usage: "`WHICH` paths to use: auto, direct, or relay, which hides this machine's addresses", DefaultText: "auto: a relay until there is a direct one"},
			&cli.StringSliceFlag{Name: "turn", Usage: "`URL` of a relay, turn:HOST:PORT?transport=udp or tcp, turns: for TLS; several times if you like", DefaultText: "those of the rendezvous"},
			&cli.StringFlag{Name: "turn-user", Usage: "`NAME` to log in with there"},
			&cli.StringFlag{Name: "turn-password", Usage: "its password; better in the variable or the config file, out of sight", Hidden: true},
			&cli.BoolFlag{Name: "no-port-mapping", Usage: "ask no router for a port (PCP, NAT-PMP, UPnP)"},
			&cli.DurationFlag{Name: "timeout", Usage: "give up if there is no path after `D`, say 30s", DefaultText: "wait for the peer"},
			&cli.DurationFlag{Name: "resume-timeout", Usage: "end the session if the peer stays away for `D`", DefaultText: "24h for a peer that is met by key, else 10m"},
			&cli.StringFlag{Name: "memory", Usage: "what all streams together may hold in memory, `SIZE`, say 64MiB", DefaultText: "half of the machine's or its control group's, 16 to 160 MiB"},
			&cli.BoolFlag{Name: "loopback", Usage: "both peers are on this machine", Hidden: true},
		},
		outputFlags: {
			&cli.BoolFlag{Name: "json", Usage: "one JSON object a line instead of words"},
			&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "say more"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "say nothing but what was asked for, and errors"},
			&cli.StringFlag{Name: "log", Usage: "write log records, `HOW`: text or json", DefaultText: "words for a person; text under systemd"},
			&cli.StringFlag{Name: "config", Usage: "read `FILE` instead of " + defaultConfigName, TakesFile: true},
		},
	}
	var flags []cli.Flag
	for _, c := range categories {
		flags = append(flags, all[c]...)
	}
	for _, f := range flags {
		setVariable(f, variable("", f.Names()[0]))
	}
	return flags
}

// ownFlags gives the flags of one command their variables.
func ownFlags(command string, flags ...cli.Flag) []cli.Flag {
	for _, f := range flags {
		setVariable(f, variable(command, f.Names()[0]))
	}
	return flags
}

func variable(table, name string) string {
	if table != "" {
		name = table + "_" + name
	}
	return "ADIT_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

func setVariable(f cli.Flag, name string) {
	switch f := f.(type) {
	case *cli.StringFlag:
		f.EnvVars = []string{name}
	case *cli.StringSliceFlag:
		f.EnvVars = []string{name}
	case *cli.BoolFlag:
		f.EnvVars = []string{name}
	case *cli.IntFlag:
		f.EnvVars = []string{name}
	case *cli.DurationFlag:
		f.EnvVars = []string{name}
	default:
		panic("cmd: a flag of a kind that has no variable")
	}
}

// tableOf returns the table of the config file that holds a command's flag: "" for the top.
func tableOf(command, flag string) string {
	// serve has a --stun and a --turn of its own: what it listens at, and what it does.
	if command == "serve" && (flag == "stun" || flag == "turn") {
		return command
	}
	switch {
	case slices.Contains(iceFlags, flag):
		return iceTable
	case flagNamed(commonFlags(meetingFlags, outputFlags), flag) != nil:
		return ""
	}
	return command
}

// flagNamed returns the flag of that name or alias, without dashes.
func flagNamed(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		for _, n := range f.Names() {
			if n == name {
				return f
			}
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	_, isBool := f.(*cli.BoolFlag)
	return !isBool
}

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
		f := flagNamed(command.Flags, name)
		if f == nil && a[1] != '-' {
			if short := flagNamed(command.Flags, a[1:2]); short != nil && takesValue(short) {
				f, name, value, hasValue = short, a[1:2], a[2:], true
			}
		}
		if f == nil {
			return nil, unknownFlag(command, a, name)
		}
		name = f.Names()[0] // the parser does not like two names of one flag
		if !takesValue(f) && !hasValue {
			flags = append(flags, "--"+name)
			continue
		}
		if !hasValue {
			if len(rest) == 0 {
				return nil, usagef(`"adit `+command.Name+` --help" shows what it takes`, "%s needs a value", a)
			}
			value, rest = rest[0], rest[1:]
		}
		if err := tryValue(f, []string{value}); err != nil {
			return nil, usagef(`"adit `+command.Name+` --help" shows what it takes`, "--%s %v", name, err)
		}
		flags = append(flags, "--"+name+"="+joined(name, value))
	}
	out := append([]string{command.Name}, flags...)
	return append(append(out, "--"), positional...), nil
}

// splitCommand finds the command among args and returns it with the other arguments. With no command
// it returns nil and what to hand to the parser.
func splitCommand(app *cli.App, args []string) (*cli.Command, []string, error) {
	var before []string // flags in front of the command
	common := commonFlags(meetingFlags, outputFlags)
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--help" || a == "-h":
			return nil, []string{"--help"}, nil
		case a == "--version":
			return app.Command("version"), nil, nil
		case len(a) > 1 && a[0] == '-':
			name, _, hasValue := strings.Cut(strings.TrimLeft(a, "-"), "=")
			f := flagNamed(common, name)
			if f == nil {
				return nil, nil, usagef(`flags go after the command; "adit --help" lists the commands`, "unknown flag %s in front of the command", a)
			}
			before = append(before, a)
			if takesValue(f) && !hasValue && i+1 < len(args) {
				i++
				before = append(before, args[i])
			}
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
		return nil, nil, usagef(`"adit --help" lists the commands`, "no command given")
	}
	return nil, []string{"--help"}, nil
}

func unknownCommand(app *cli.App, name string) error {
	var known []string
	for _, c := range app.Commands {
		known = append(known, c.Names()...)
	}
	if n := nearest(name, known); n != "" {
		return usagef(`did you mean "adit `+n+`"?`, "there is no command %q", name)
	}
	return usagef(`"adit --help" lists the commands`, "there is no command %q", name)
}

func unknownFlag(command *cli.Command, given, name string) error {
	var known []string
	for _, f := range command.Flags {
		known = append(known, f.Names()...)
	}
	given, _, _ = strings.Cut(given, "=")
	if n := nearest(name, known); n != "" {
		dashes := "--"
		if len(n) == 1 {
			dashes = "-"
		}
		return usagef("did you mean "+dashes+n+"?", "adit %s has no flag %s", command.Name, given)
	}
	return usagef(`"adit `+command.Name+` --help" lists its flags`, "adit %s has no flag %s", command.Name, given)
}
