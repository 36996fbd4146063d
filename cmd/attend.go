package cmd

import (
	"context"
	"errors"
	"os"
	"slices"

	"adit/internal/control"
)

// attended are the commands that run for long, and that others may ask how they do.
var attended = []string{"expose", "connect", "pipe", "serve"}

// errStopped is the cause of a context that another process asked to end.
var errStopped = errors.New("stopped")

// attend lets others see what this process does, and end it, until the returned function is called. A
// machine on which that is not possible is no reason not to start.
func attend(ctx context.Context, u *ui, command string) (context.Context, func()) {
	if !slices.Contains(attended, command) {
		return ctx, func() {}
	}
	u.run = newRunning(command)
	ctx, stop := context.WithCancelCause(ctx)
	dir, err := control.Dir()
	var server *control.Server
	if err == nil {
		server, err = control.Listen(dir, control.Handler{
			Status: func() control.Status {
				s := u.run.status()
				s.PID, s.Version = os.Getpid(), version()
				return s
			},
			Stop:  func() { stop(errStopped) },
			Match: u.run.lendsTo,
			Dial:  u.run.lend,
		})
	}
	if err != nil {
		u.logger().Info("adit status will not see this process", "err", err)
		return ctx, func() { stop(nil) }
	}
	return ctx, func() {
		_ = server.Close() // never fails
		stop(nil)
	}
}
