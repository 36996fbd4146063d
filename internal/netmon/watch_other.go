//go:build !linux

package netmon

import (
	"context"
	"log/slog"
)

// watch knows no hints here.
func watch(context.Context, *slog.Logger, chan<- struct{}) {}

// defaultRoutes knows none here: the source address tells of most changes.
func defaultRoutes() []string { return nil }
