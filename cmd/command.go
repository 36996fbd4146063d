package cmd

import (
	"context"

	"github.com/urfave/cli/v2"
)

// command makes a command of what is said about it, of its options with their defaults, and of what it does.
func command[P settings](u *ui, about cli.Command, options func() P, do func(context.Context, *ui, P) error) *cli.Command {
	o := options()
	about.Flags = flags(o.list())
	about.Action = func(c *cli.Context) error {
		o.common().args = c.Args().Slice()
		o.common().fresh = func() settings { return options() }
		fromLine(o, c.IsSet)
		ctx, end, err := settle(c.Context, u, c.Command.Name, o)
		if err != nil {
			return err
		}
		defer end()
		return do(ctx, u, o)
	}
	return &about
}

// settle fills what the command line has left open, checks all of it, and makes u print as it says. end is called when
// the command has ended.
func settle(ctx context.Context, u *ui, name string, o settings) (_ context.Context, end func(), err error) {
	bad := &complaints{of: o.common()}
	fromVariables(o, bad)
	u.print(o.output()) // an error in the config file is printed in the way asked for, too
	if name == "config" {
		return ctx, func() {}, nil // it shows what is wrong itself
	}
	file, err := load(u, name, o)
	if err != nil {
		return ctx, nil, err
	}
	fromConfig(o, file)
	u.print(o.output())
	if b, ok := o.(interface{ behind() bool }); ok && b.behind() {
		u.standBehind()
	}
	for _, f := range misspelt() {
		u.say("%s; %s", f.Message, f.Hint)
	}
	o.check(bad)
	if err := bad.err(); err != nil {
		return ctx, nil, err
	}
	return attend(ctx, u, name, o)
}

// optionsOf are the options of one command.
type optionsOf struct {
	command string
	options settings
}

// everyOptions returns the options of all commands, with their defaults.
func everyOptions() []optionsOf {
	return []optionsOf{
		{"expose", newExposeOptions()}, {"connect", newConnectOptions()}, {"pipe", newPipeOptions()},
		{"ping", newPingOptions()}, {"bench", newBenchOptions()}, {"doctor", newDoctorOptions()},
		{"status", newStatusOptions()}, {"stop", newPlainOptions()}, {"serve", newServeOptions()},
		{"key", newKeyOptions()}, {"peers", newPeersOptions()}, {"config", newPlainOptions()},
		{"demo", newDemoOptions()}, {"version", newPlainOptions()}, {"service", newServiceOptions()},
		{"completion", newPlainOptions()}, {"man", newManOptions()},
	}
}

// plainOptions are those of commands that have none of their own.
type plainOptions struct {
	given
	outputOptions
}

func newPlainOptions() *plainOptions          { return new(plainOptions) }
func (o *plainOptions) list() []option        { return o.outputOptions.list() }
func (o *plainOptions) check(bad *complaints) { o.outputOptions.check(bad) }

// outputOptions say how a command prints.
type outputOptions struct {
	json, verbose, quiet bool
	log, config          string
}

func (o *outputOptions) output() *outputOptions { return o }

func (o *outputOptions) list() []option {
	list := shared("",
		option{name: "json", to: &o.json, usage: "one JSON object a line instead of words"},
		option{name: "verbose", short: "v", to: &o.verbose, usage: "say more"},
		option{name: "quiet", short: "q", to: &o.quiet, usage: "say nothing but what was asked for, and errors"},
		option{name: "log", to: &o.log, usage: "write log records, `HOW`: text or json", none: "words for a person; text under systemd", values: []string{logText, logJSON}},
		option{name: "config", to: &o.config, usage: "read `FILE` instead of " + defaultConfigName, path: true},
	)
	list[len(list)-1].key = "" // the file does not name itself
	return list
}

func (o *outputOptions) check(bad *complaints) {
	if o.log != "" && o.log != logText && o.log != logJSON {
		bad.about("log", "for example --log json", "%q is neither text nor json", o.log)
	}
}

// attendOptions are those of commands that run without anybody at the terminal.
type attendOptions struct{ metrics string }

func (o *attendOptions) list(command string) []option {
	return own(command, option{name: "metrics", to: &o.metrics, usage: "serve figures for Prometheus at `ADDR`: PORT of this machine alone, or HOST:PORT", none: "none"})
}

func (o *attendOptions) metricsAt() string { return o.metrics }

const defaultConfigName = "adit/config.toml in the user's configuration directory"
