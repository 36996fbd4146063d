//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package netmon

import (
	"context"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// openRoutes opens the socket on which the kernel tells of every change of addresses, links and routes
// (route(4)).
func openRoutes() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_ROUTE, unix.SOCK_RAW, unix.AF_UNSPEC)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil { // so that Close ends Read
		_ = unix.Close(fd) // it was of no use
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "route"), nil
}

func watch(ctx context.Context, log *slog.Logger, hints chan<- struct{}) {
	watchSocket(ctx, log, hints, openRoutes, func(b []byte) bool { return !onlyMisses(b, unix.RTM_MISS) })
}

// defaultRoutes knows none here: the source address tells of most changes.
func defaultRoutes() []string { return nil }
