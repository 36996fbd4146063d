package cmd

import (
	"context"
	"errors"
	"os"
	"slices"

	"adit/internal/control"
	"adit/internal/metrics"
)

// attended are the commands that run for long, and that others may ask how they do.
var attended = []string{"expose", "connect", "pipe", "serve"}

// errStopped is the cause of a context that another process asked to end.
var errStopped = errors.New("stopped")

// attend lets others see what this process does, and end it, until the returned function is called: by
// the control socket, the service manager and metrics.
func attend(ctx context.Context, u *ui, command string, o settings) (context.Context, func(), error) {
	if !slices.Contains(attended, command) {
		return ctx, func() {}, nil
	}
	u.useLog(o.output().log)
	streams, flows := "", ""
	if m, ok := o.(interface{ streamMemory() string }); ok {
		streams = m.streamMemory()
	}
	if f, ok := o.(interface{ flowMemory() string }); ok {
		flows = f.flowMemory()
	}
	u.flows = flowBudget(streams, flows)
	u.run = newRunning(command)
	ctx, stop := context.WithCancelCause(ctx)
	ends := []func(){func() { stop(nil) }}
	end := func() {
		for _, f := range slices.Backward(ends) {
			f()
		}
	}
	addr := ""
	if m, ok := o.(interface{ metricsAt() string }); ok {
		addr = m.metricsAt()
	}
	if addr != "" {
		m, err := metrics.Listen(addr, u.logger(), u.run.figures)
		if err != nil {
			end()
			return ctx, nil, cannotListen(err, "stop what else uses the port, or choose another with --metrics")
		}
		u.say("metrics at http://%s/metrics", m.Addr())
		ends = append(ends, func() { _ = m.Close() }) // requests that were cut off are nobody's loss
	}
	ends = append(ends, u.run.notify(ctx, u.logger()))

	server, err := listenControl(control.Handler{
		Status: func() control.Status {
			s := u.run.status()
			s.PID, s.Version = os.Getpid(), version()
			return s
		},
		Stop:  func() { stop(errStopped) },
		Match: u.run.lendsTo,
		Dial:  u.run.lend,
	})
	switch {
	case errors.Is(err, control.ErrUnsupported):
		return ctx, end, nil
	case err != nil:
		// A machine on which that is not possible is no reason not to start.
		u.say(`"adit status" will not see this process: %v`, err)
		return ctx, end, nil
	}
	ends = append(ends, func() { _ = server.Close() }) // never fails
	return ctx, end, nil
}

// listenControl opens the control socket, in the spare place if it cannot be in the usual one. The error is that of the
// usual one.
func listenControl(h control.Handler) (*control.Server, error) {
	dir, err := control.Dir()
	if err == nil {
		var s *control.Server
		if s, err = control.Listen(dir, h); err == nil {
			return s, nil
		}
	}
	if spare, serr := control.SpareDir(); serr == nil {
		if s, serr := control.Listen(spare, h); serr == nil {
			return s, nil
		}
	}
	return nil, err
}
