package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"adit/internal/control"

	"github.com/urfave/cli/v2"
)

const (
	// rateOver is how long rates are measured for where nothing was asked before.
	rateOver = 300 * time.Millisecond

	// watchEvery is how often --watch looks.
	watchEvery = time.Second
)

func statusCommand(u *ui) *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show what the running adit processes of this user do",
		Description: `Show the processes of this user that expose, connect, pipe or serve: their peers and since when,
the path with its candidates and round trips, streams and forwards, rates, loss and what was sent
again. Root sees services of the system too.

  adit status                once
  adit status --watch        again each second, until Ctrl-C
  adit status --json         as JSON, one object a line and process

"adit stop" ends one of them.`,
		Flags: append(ownFlags("status",
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "show it again each second, until Ctrl-C"},
		), commonFlags(outputFlags)...),
		Action: action(u, func(ctx context.Context, c *cli.Context) error {
			if c.NArg() > 0 {
				return usagef("for example: adit status --watch", "status takes no arguments")
			}
			if _, err := control.Dir(); err != nil {
				return &failure{code: exitOther, message: err.Error(), hint: "see what the processes themselves print"}
			}
			if c.Bool("watch") {
				return watchStatus(ctx, u)
			}
			return showStatus(ctx, u)
		}),
	}
}

func stopCommand(u *ui) *cli.Command {
	return &cli.Command{
		Name:      "stop",
		Usage:     "end a running adit of this user in good order",
		ArgsUsage: "PID",
		Description: `End a running adit as Ctrl-C would, by the number that "adit status" shows: its peers hear of it.

  adit stop 4711`,
		Flags: commonFlags(outputFlags),
		Action: action(u, func(ctx context.Context, c *cli.Context) error {
			pid, err := strconv.Atoi(c.Args().First())
			if c.NArg() != 1 || err != nil {
				return usagef("for example: adit stop 4711", "stop takes the number of one process")
			}
			found, err := control.Stop(ctx, pid)
			switch {
			case err != nil:
				return &failure{code: exitOther, message: err.Error(), hint: fmt.Sprintf("kill %d ends it too", pid)}
			case !found:
				return &failure{code: exitOther, message: fmt.Sprintf("no adit of yours with the number %d runs", pid), hint: `"adit status" shows which run`}
			}
			u.say("asked %d to end", pid)
			return nil
		}),
	}
}

// A statusReader asks all processes again and again, and measures rates in between.
type statusReader struct{ last map[int]control.Status }

// read returns what each process does. wait says that rates are measured now where they were not before.
func (r *statusReader) read(ctx context.Context, u *ui) []control.Status {
	all, errs := control.Statuses(ctx)
	for _, err := range errs {
		if ctx.Err() == nil {
			u.say("%s", printable(err.Error()))
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
	u.answer("%s", strings.Join(statusLines(all, outputWidth(u), time.Now()), "\n"))
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
			fmt.Fprint(u.out, redrawn(fitted(all, w, max(h-1, 1), time.Now())))
		default:
			if !first {
				u.answer("")
			}
			u.answer("%s", strings.Join(statusLines(all, 0, time.Now()), "\n"))
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

// redrawn draws a terminal in place, without a flicker.
func redrawn(lines []string) string {
	return "\x1b[H" + strings.Join(lines, "\x1b[K\r\n") + "\x1b[K\x1b[J"
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
