// Package cmd is adit's command line: flags, configuration, the terminal and exit codes. It knows no
// protocol.
//
// A command is one file. Its options are a struct that settle fills in this order: command line, ADIT_ variable,
// config file, default. Everything that is printed goes through the ui, which is fed with events.
package cmd

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"adit/internal/fail"

	"github.com/urfave/cli/v2"
)

// hangupAfter is when the terminal is looked at again after a SIGHUP that found it there: what stands between
// it and adit may pass on the signal before it closes its own.
const hangupAfter = 500 * time.Millisecond

// secondAfter is how long a request to end counts as the first one again: timeout(1) sends SIGTERM to its child and
// then to its group, shells and terminals send several signals at once, and none of them means "at once".
const secondAfter = 500 * time.Millisecond

// Main runs adit with the given arguments, the program's name first, and returns its exit code.
func Main(args []string) int {
	if os.Getenv("GOGC") == "" {
		// What is used often is pooled, so that little garbage is made: waiting for less of it costs nothing
		// that can be measured, and a fast tunnel holds a fifth less memory.
		debug.SetGCPercent(70)
	}
	u := newUI(os.Stdout, os.Stderr)
	defer u.done()
	return managed(u, args, func(parent context.Context, args []string) int {
		ctx, stop := interruptible(parent, u)
		defer stop()
		err := execute(ctx, u, args[1:])
		f := failureOf(err)
		if f == nil {
			return fail.Done
		}
		u.done()
		u.fail(f)
		return f.Code
	})
}

// execute runs one command line.
func execute(ctx context.Context, u *ui, args []string) error {
	app := newApp(u)
	if len(args) > 0 && args[0] == completeCommand {
		complete(u, app, args[1:])
		return nil
	}
	args, err := permute(app, args)
	if err != nil {
		return err
	}
	if n := len(args); args[n-1] == "--help" {
		help(u, app, strings.Join(args[:n-1], " "))
		return nil
	}
	return app.RunContext(ctx, append([]string{app.Name}, args...))
}

func newApp(u *ui) *cli.App {
	app := &cli.App{
		Name:            "adit",
		Usage:           "join two machines behind NATs by a direct, encrypted path and forward ports over it",
		HideVersion:     true,
		HideHelpCommand: true,
		Writer:          u.out,
		ErrWriter:       u.err,
		ExitErrHandler:  func(*cli.Context, error) {}, // Main prints and exits
		Commands:        []*cli.Command{exposeCommand(u), connectCommand(u), pipeCommand(u), pingCommand(u), benchCommand(u), doctorCommand(u), statusCommand(u), stopCommand(u), serveCommand(u), keyCommand(u), peersCommand(u), configCommand(u), demoCommand(u), versionCommand(u)},
	}
	app.Commands = append(app.Commands, serviceCommand(u, app), completionCommand(u, app), manCommand(u, app))
	for _, c := range app.Commands {
		c.HideHelpCommand = true
		c.OnUsageError = func(c *cli.Context, err error, _ bool) error {
			return fail.Usagef(`"adit `+c.Command.Name+` --help" shows what it takes`, "%v", err)
		}
	}
	return app
}

// interruptible returns a context that the first Ctrl-C, or a polite request to end, cancels with
// errInterrupted. The second, which comes secondAfter later at the earliest, ends the process at once. SIGHUP is such a request, though never the second, where the
// terminal that adit is used at is gone; else it asks for another look at everything: at the files here, at the network
// elsewhere.
func interruptible(parent context.Context, u *ui) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	// The runtime kills a process that writes to a closed pipe on its standard output, unless it asks
	// to be told: then the write fails, and the session can be closed properly.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	ch := make(chan os.Signal, 2) // both Ctrl-C, should they come at once
	used := terminalInUse()
	// A program whose terminal it is says by SIGHUP that adit is not needed any more.
	terminalGone := func() bool { return u.behind.Load() || used() }
	var again <-chan time.Time      // nil until a SIGHUP
	files := make(chan struct{}, 1) // to be read again; one says it all
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) { // as under nohup
			signal.Notify(ch, s)
		}
	}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // apart: what is read may have the peer asked, and it may not answer
		for {
			select {
			case <-quit:
				return
			case <-files:
				u.reload()
			}
		}
	})
	wg.Go(func() {
		var ending time.Time // when the first request came; zero before
		for {
			select {
			case <-quit:
				return
			case <-again:
				again = nil
				if terminalGone() && ending.IsZero() {
					ending = time.Now()
					cancel(errInterrupted)
				}
			case sig := <-ch:
				switch wishOf(sig, ending, time.Now(), terminalGone) {
				case wishFiles:
					again = time.After(hangupAfter)
					select {
					case files <- struct{}{}:
					default:
					}
				case wishEnd:
					if ending.IsZero() {
						ending = time.Now()
					}
					cancel(errInterrupted)
				case wishExit:
					u.done()
					os.Exit(fail.Interrupted)
				}
			}
		}
	})
	return ctx, func() {
		signal.Stop(ch)
		signal.Stop(pipe)
		close(quit)
		wg.Wait()
		cancel(nil)
	}
}

// A wish is what a signal asks for.
type wish int

const (
	wishFiles wish = iota // to read the files again
	wishEnd               // to end properly
	wishExit              // to end at once
)

// wishOf tells what a signal asks for now, of a process that has been ending since a time, or that is not (zero). A
// terminal that is closed may send SIGHUP twice, by its shell and by the kernel, so that it is never a second request.
func wishOf(sig os.Signal, ending, now time.Time, terminalGone func() bool) wish {
	switch {
	case sig == syscall.SIGHUP && ending.IsZero() && !terminalGone():
		return wishFiles
	case sig == syscall.SIGHUP, ending.IsZero(), now.Sub(ending) < secondAfter:
		return wishEnd
	}
	return wishExit
}

// quoted returns s as a shell takes it.
func quoted(s string) string {
	safe := func(r rune) bool {
		return strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+=,[]", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0 && !strings.ContainsAny(s, "[]") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
