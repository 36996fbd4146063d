package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"adit/internal/doctor"
	"adit/internal/event"
	"adit/internal/fail"
	"adit/internal/typeset"

	"github.com/urfave/cli/v2"
)

// doctorOptions are those of "adit doctor".
type doctorOptions struct {
	given
	meetingOptions
	outputOptions
	redact bool
}

func newDoctorOptions() *doctorOptions { return new(doctorOptions) }

func (o *doctorOptions) list() []option {
	used := []string{"signal", "stun", "port", "turn", "turn-user", "turn-password", "no-port-mapping", "loopback"}
	return slices.Concat(own("doctor",
		option{name: "redact", to: &o.redact, usage: "put labels in the place of addresses and names of servers"},
	), slices.DeleteFunc(o.meetingOptions.list(), func(x option) bool { return !slices.Contains(used, x.name) }), o.outputOptions.list())
}

func (o *doctorOptions) check(bad *complaints) {
	o.meetingOptions.check(bad)
	o.outputOptions.check(bad)
}

func doctorCommand(u *ui) *cli.Command {
	return command(u, cli.Command{
		Name:  "doctor",
		Usage: "find out what this network allows, and what to do about it",
		Description: `Test the network this machine is in, without a peer: how its NAT behaves, whether UDP, the
rendezvous and relays get through, what the router and the system offer. It takes less than ten
seconds and ends with a verdict; the exit code is 4 if no tunnel is possible.

  adit doctor --signal https://meet.example.org
  adit doctor --redact           no addresses or names, for a bug report`,
	}, newDoctorOptions, func(ctx context.Context, u *ui, o *doctorOptions) error {
		if len(o.args) > 0 {
			return fail.Usagef("for example: adit doctor --signal https://meet.example.org", "doctor takes no arguments, only flags")
		}
		met := o.meetingOptions.config(u)
		cfg := doctor.Config{TURN: met.TURN, STUN: o.servers, Port: met.Port, NoPorts: !met.PortMapping, Loopback: met.Loopback, TLS: met.TLS, Logger: met.Logger}
		if byCode(met.Signal) {
			cfg.Signal = met.Signal
		}
		if cfg.STUN == nil && !cfg.Loopback {
			cfg.Fallback = publicSTUN
		}
		return examine(ctx, u, cfg, o.redact)
	})
}

// examine runs the tests and prints what they found.
func examine(ctx context.Context, u *ui, cfg doctor.Config, redact bool) error {
	u.mu.Lock()
	if !u.json {
		u.statusLocked("testing the network …")
	}
	u.mu.Unlock()
	r := doctor.Run(ctx, cfg)
	u.done()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	text := func(s string) string { return s }
	if redact {
		text = r.Redact().Text
	}
	if u.json {
		b, err := json.Marshal(struct {
			Name string    `json:"event"`
			Time time.Time `json:"time"`
			*doctor.Report
		}{event.Doctor, time.Now(), r})
		if err != nil {
			panic("cmd: doctor: " + err.Error()) // a report holds nothing that JSON cannot
		}
		u.answer("%s", text(string(b)))
	} else {
		columns := 0
		paint := func(_ style, s string) string { return s }
		if u.outTTY {
			columns, paint = u.width(), u.paint
		}
		u.answer("%s", report(r.Lines(), text, columns, paint))
	}
	if !r.Possible {
		return &fail.Failure{Code: fail.NoPath, Message: text(r.Verdict), Hint: text(r.Advice)}
	}
	return nil
}

// report sets findings as a table, the topics in a column of their own if there is room. columns is 0 where
// nothing is to be wrapped.
func report(lines []doctor.Line, text func(string) string, columns int, paint func(style, string) string) string {
	const roomy = 60
	topics := 0
	for _, l := range lines {
		topics = max(topics, len(l.Topic))
	}
	wide := columns == 0 || columns >= roomy
	indent := "    "
	if wide {
		indent = strings.Repeat(" ", topics+4)
	}
	set := func(s string) string {
		if columns == 0 {
			return s
		}
		return typeset.Wrap(s, indent, columns)
	}
	var out strings.Builder
	for i, l := range lines {
		mark := " "
		switch l.Level {
		case doctor.Good:
			mark = paint(green, "✓")
		case doctor.Poor:
			mark = paint(bold, "!")
		case doctor.Bad:
			mark = paint(red, "✗")
		}
		topic, found := l.Topic, text(l.Found)
		if i == len(lines)-1 {
			found = paint(bold, found)
		}
		if wide {
			topic += strings.Repeat(" ", topics-len(topic)+2)
		} else {
			topic += ": "
		}
		fmt.Fprintf(&out, "%s\n", set(mark+" "+topic+found))
		if l.Advice != "" {
			fmt.Fprintf(&out, "%s\n", set(indent+"→ "+text(l.Advice)))
		}
	}
	return strings.TrimSuffix(out.String(), "\n")
}
