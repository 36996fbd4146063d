//go:build !windows

package cmd

import (
	"adit/internal/fail"
	"context"
	"runtime"
)

// systemManager returns the manager of a system without systemd or launchd.
func systemManager(*ui, bool, string) (manager, error) {
	return nil, &fail.Failure{Code: fail.Other, Message: "adit service knows systemd, launchd and Windows, and not what starts services on " + runtime.GOOS, Hint: "have your system's service manager run the command line as it is; docs/service.md has examples"}
}

// managed runs adit. On Windows the manager of services speaks to its processes by other means than signals.
func managed(_ *ui, args []string, run func(context.Context, []string) int) int {
	return run(context.Background(), args)
}
