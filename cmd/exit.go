package cmd

import (
	"context"
	"errors"
	"fmt"
)

// Exit codes. They are part of the interface: scripts match on them. Those from 3 to 8 and 124 that
// a meeting or a session can fail with are classes of peer.Error too, with the same values.
const (
	exitDone        = 0
	exitOther       = 1
	exitUsage       = 2 // a wrong command line, variable or config file
	exitSignal      = 3 // signalling failed
	exitNoPath      = 4
	exitAuth        = 5
	exitRefused     = 6 // by the peer's policy, or its target
	exitListen      = 7
	exitGone        = 8 // the peer was there and is silent now
	exitTimeout     = 124
	exitInterrupted = 130
)

// A failure is what a command ends with when it does not end well: one sentence that says what is
// wrong, one that says what to do, and the code for the shell.
type failure struct {
	code    int
	message string // no capital, no period
	hint    string
}

func (f *failure) Error() string { return f.message }

// errInterrupted is the cause of a context that a first Ctrl-C cancelled.
var errInterrupted = errors.New("interrupted")

// usagef is a failure that a different command line would not have had.
func usagef(hint, format string, args ...any) *failure {
	return &failure{code: exitUsage, message: fmt.Sprintf(format, args...), hint: hint}
}

// failureOf turns any error of a command into a failure, or nil if there is nothing to report.
func failureOf(err error) *failure {
	var f *failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return f
	case errors.Is(err, errInterrupted), errors.Is(err, context.Canceled):
		return &failure{code: exitInterrupted, message: "interrupted"}
	case errors.Is(err, errStopped):
		return &failure{code: exitInterrupted, message: "stopped by another process of this user"}
	}
	if f = failureBelow(err); f != nil {
		return f
	}
	return &failure{code: exitOther, message: err.Error(), hint: "run it again with -v to see more"}
}
