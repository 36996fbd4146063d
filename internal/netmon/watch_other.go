//go:build !linux && !darwin && !dragonfly && !freebsd && !netbsd && !openbsd

package netmon

import (
	"context"
	"log/slog"
)

// watch knows no hints here.
func watch(context.Context, *slog.Logger, chan<- struct{}) {}

// defaultRoutes knows none here: the source address tells of most changes.
func defaultRoutes() []string { return nil }
