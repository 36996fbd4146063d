package cmd

import (
	"context"
	"errors"
	"os"
	"slices"

	"adit/internal/control"
	"adit/internal/metrics"

	"github.com/urfave/cli/v2"
)

// attended are the commands that run for long, and that others may ask how they do.
var attended = []string{"expose", "connect", "pipe", "serve"}

// errStopped is the cause of a context that another process asked to end.
var errStopped = errors.New("stopped")

// attendFlags are those of commands that run without anybody at the terminal.
func attendFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "metrics", Usage: "serve figures for Prometheus at `ADDR`: PORT of this machine alone, or HOST:PORT", DefaultText: "none"},
	}
}

// attend lets others see what this process does, and end it, until the returned function is called: by
// the control socket, the service manager and metrics.
func attend(u *ui, c *cli.Context) (context.Context, func(), error) {
	ctx := c.Context
	if !slices.Contains(attended, c.Command.Name) {
		return ctx, func() {}, nil
	}
	if err := u.useLog(c.String("log")); err != nil {
		return ctx, nil, err
	}
	var err error
	if u.flows, err = flowBudget(c.String("memory"), c.String("flow-memory")); err != nil {
		return ctx, nil, err
	}
	u.run = newRunning(c.Command.Name)
	ctx, stop := context.WithCancelCause(ctx)
	ends := []func(){func() { stop(nil) }}
	end := func() {
		for _, f := range slices.Backward(ends) {
			f()
		}
	}
	if addr := c.String("metrics"); addr != "" {
		m, err := metrics.Listen(addr, u.logger(), u.run.figures)
		if err != nil {
			end()
			return ctx, nil, cannotListen(err, "stop what else uses the port, or choose another with --metrics")
		}
		u.say("metrics at http://%s/metrics", m.Addr())
		ends = append(ends, func() { _ = m.Close() }) // requests that were cut off are nobody's loss
	}
	ends = append(ends, u.run.notify(ctx, u.logger()))

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
		// A machine on which that is not possible is no reason not to start.
		u.logger().Info("adit status will not see this process", "err", err)
		return ctx, end, nil
	}
	ends = append(ends, func() { _ = server.Close() }) // never fails
	return ctx, end, nil
}
