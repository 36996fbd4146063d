package cmd

import (
	"context"
	"errors"

	"adit/internal/fail"
)

// errInterrupted is the cause of a context that a first Ctrl-C cancelled.
var errInterrupted = errors.New("interrupted")

// failureOf turns any error of a command into a failure, or nil if there is nothing to report.
func failureOf(err error) *fail.Failure {
	var f *fail.Failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return f
	case errors.Is(err, errInterrupted), errors.Is(err, context.Canceled):
		return &fail.Failure{Code: fail.Interrupted, Message: "interrupted"}
	case errors.Is(err, errStopped):
		return &fail.Failure{Code: fail.Interrupted, Message: "stopped by another process of this user"}
	}
	if f = failureBelow(err); f != nil {
		return f
	}
	return &fail.Failure{Code: fail.Other, Message: err.Error(), Hint: "run it again with -v to see more"}
}
