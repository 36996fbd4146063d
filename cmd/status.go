package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"adit/internal/control"
	"adit/internal/fail"
	"adit/internal/statusview"
	"adit/internal/typeset"

	"github.com/urfave/cli/v2"
)

const (
	// rateOver is how long rates are measured for where nothing was asked before.
	rateOver = 300 * time.Millisecond

	// watchEvery is how often --watch looks.
	watchEvery = time.Second
)

// statusOptions are those of "adit status".
type statusOptions struct {
	given
	outputOptions
	watch bool
}

func newStatusOptions() *statusOptions { return new(statusOptions) }

func (o *statusOptions) list() []option {
	return slices.Concat(own("status",
		option{name: "watch", short: "w", to: &o.watch, usage: "show it again each second, until Ctrl-C"},
	), o.outputOptions.list())
}

func (o *statusOptions) check(bad *complaints) { o.outputOptions.check(bad) }

func statusCommand(u *ui) *cli.Command {
	return command(u, cli.Command{
		Name:  "status",
		Usage: "show what the running adit processes of this user do",
		Description: `Show the processes of this user that expose, connect, pipe or serve: their peers and since when,
the path with its candidates and round trips, streams and forwards, rates, loss and what was sent
again. Root sees services of the system too.

  adit status                once
  adit status --watch        again each second, until Ctrl-C
  adit status --json         as JSON, one object a line and process

"adit stop" ends one of them.`,
	}, newStatusOptions, func(ctx context.Context, u *ui, o *statusOptions) error {
		if len(o.args) > 0 {
			return fail.Usagef("for example: adit status --watch", "status takes no arguments")
		}
		if _, err := control.Dir(); errors.Is(err, control.ErrUnsupported) {
			return &fail.Failure{Code: fail.Other, Message: err.Error(), Hint: "see what the processes themselves print"}
		}
		if o.watch {
			return watchStatus(ctx, u)
		}
		return showStatus(ctx, u)
	})
}

func stopCommand(u *ui) *cli.Command {
	return command(u, cli.Command{
		Name:      "stop",
		Usage:     "end a running adit of this user in good order",
		ArgsUsage: "PID",
		Description: `End a running adit as Ctrl-C would, by the number that "adit status" shows: its peers hear of it.

  adit stop 4711`,
	}, newPlainOptions, func(ctx context.Context, u *ui, o *plainOptions) error {
		pid, err := strconv.Atoi(o.arg(0))
		if len(o.args) != 1 || err != nil {
			return fail.Usagef("for example: adit stop 4711", "stop takes the number of one process")
		}
		found, err := control.Stop(ctx, pid)
		switch {
		case err != nil:
			return &fail.Failure{Code: fail.Other, Message: err.Error(), Hint: fmt.Sprintf("kill %d ends it too", pid)}
		case !found:
			return &fail.Failure{Code: fail.Other, Message: fmt.Sprintf("no adit of yours with the number %d runs", pid), Hint: `"adit status" shows which run`}
		}
		u.say("asked %d to end", pid)
		return nil
	})
}

// A statusReader asks all processes again and again, and measures rates in between.
type statusReader struct{ last map[int]control.Status }

// read returns what each process does. wait says that rates are measured now where they were not before.
func (r *statusReader) read(ctx context.Context, u *ui) []control.Status {
	all, errs := control.Statuses(ctx)
	for _, err := range errs {
		if ctx.Err() == nil {
			u.say("%s", typeset.Printable(err.Error()))
		}
	}
	next := make(map[int]control.Status, len(all))
	for i := range all {
		next[all[i].PID] = all[i]
		var before *control.Status
		if b, ok := r.last[all[i].PID]; ok && b.Since.Equal(all[i].Since) {
			before = &b
		}
		// The copy that is kept shares its sessions, of which only counters are read again.
		all[i].Rates(before)
	}
	r.last = next
	return all
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func showStatus(ctx context.Context, u *ui) error {
	var r statusReader
	all := r.read(ctx, u)
	if sessionsIn(all) > 0 {
		if err := pause(ctx, rateOver); err != nil {
			return err
		}
		all = r.read(ctx, u)
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if u.json {
		printStatusJSON(u, all)
		return nil
	}
	u.answer("%s", strings.Join(statusview.Lines(all, outputWidth(u), time.Now()), "\n"))
	return nil
}

func sessionsIn(all []control.Status) (n int) {
	for _, s := range all {
		n += len(s.Sessions)
	}
	return n
}

// outputWidth is how many columns a line on standard output may have; 0 is no limit.
func outputWidth(u *ui) int {
	if !u.outTTY {
		return 0
	}
	return terminalWidth(os.Stdout)
}

// watchStatus shows the status until ctx ends, which is how it is meant to end.
func watchStatus(ctx context.Context, u *ui) error {
	var r statusReader
	live := u.outTTY && !u.json
	if live {
		u.answer("\x1b[?1049h\x1b[?25l\x1b[H") // the other screen, without a cursor
		defer fmt.Fprint(u.out, "\x1b[?25h\x1b[?1049l")
	}
	for first := true; ; first = false {
		all := r.read(ctx, u)
		switch {
		case ctx.Err() != nil:
			return nil
		case u.json:
			printStatusJSON(u, all)
		case live:
			w, h := terminalSize(os.Stdout)
			fmt.Fprint(u.out, statusview.Redrawn(statusview.Fitted(all, w, max(h-1, 1), time.Now())))
		default:
			if !first {
				u.answer("")
			}
			u.answer("%s", strings.Join(statusview.Lines(all, 0, time.Now()), "\n"))
		}
		every := watchEvery
		if first && sessionsIn(all) > 0 {
			every = rateOver // rates are worth little before
		}
		if pause(ctx, every) != nil {
			return nil
		}
	}
}

// printStatusJSON prints one object a process; none if nothing runs.
func printStatusJSON(u *ui, all []control.Status) {
	for _, s := range all {
		b, err := json.Marshal(s)
		if err != nil {
			panic("cmd: status: " + err.Error()) // it holds nothing that JSON cannot
		}
		u.answer("%s", b)
	}
}
