package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"adit/internal/handshake"
	"adit/internal/link"
	"adit/signal"
)

// A Class says what kind of failure ended a meeting or a session. Its value is adit's exit code.
type Class int

const (
	ClassOther   Class = 1   // anything without a class of its own
	ClassSignal  Class = 3   // the signal channel failed: no rendezvous, no such room, a bad token
	ClassNoPath  Class = 4   // both sides know each other, and no path between them works
	ClassAuth    Class = 5   // the peer is not who it should be: a wrong code, a forged answer
	ClassGone    Class = 8   // the peer was there and is silent now
	ClassTimeout Class = 124 // the timeout that was asked for has passed
)

// An Error is a failure with its reason in one sentence and advice in another.
type Error struct {
	Class   Class
	Message string // what is wrong; no capital, no period
	Hint    string // what to do; may be empty
	Err     error  // the cause, for errors.Is; may be nil
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Err }

var (
	errTimeout = errors.New("timed out")                           // the timeout that was asked for
	errChecked = errors.New("connectivity checks took their time") // the limit on checks
)

func failf(class Class, hint string, cause error, format string, args ...any) *Error {
	return &Error{Class: class, Message: fmt.Sprintf(format, args...), Hint: hint, Err: cause}
}

// classify gives err, met while dialling, its class. What already has one keeps it.
func classify(ctx context.Context, err error) error {
	var told *Error
	if errors.As(err, &told) && (told.Class == ClassTimeout || errors.Is(err, errSought) || errors.Is(err, errTimeout)) {
		return told
	}
	if ctx.Err() != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errTimeout) {
			return failf(ClassTimeout, "start the other side too, or allow more time with --timeout", cause, "the peer did not answer in time")
		}
		return context.Cause(ctx)
	}
	if errors.Is(err, handshake.ErrVersion) {
		return failf(ClassSignal, "install the same version on both sides: \"adit version\" tells which one is there", err, "the other side runs another version of adit, and the two do not understand each other")
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	if errors.Is(err, handshake.ErrAuth) {
		return failf(ClassAuth, "start again on both sides with fresh lines or a fresh code", err, "the peer's answer does not fit: %v", err)
	}
	return failf(ClassOther, "", err, "%v", err)
}

// closeUnknown is the reason in a CLOSE of a side that knows its peer no more.
const closeUnknown = "unknown"

// ErrUnknown says that the peer knows this machine no more, and has ended the session for that.
var ErrUnknown = errors.New("this machine is not known over there any more")

// closeBroken begins the reason in a CLOSE of a side that ends the session because of what the peer sent.
const closeBroken = "broken: "

// broken is the end of a session for what the peer sent on its streams.
func broken(err error) error {
	return failf(ClassGone, "have both sides run the same version of adit; if they do, the other side is not to be trusted", err, "the session was ended: the other side sent what makes no sense: %v", err)
}

// ended turns the reason a link ended for into what Session.Wait returns.
func ended(err error) error {
	var told *link.PeerClosedError
	switch {
	case errors.As(err, &told) && told.Reason == closeUnknown:
		return failf(ClassAuth, `have "adit peers add" run there with what "adit key" prints here`, ErrUnknown, "the other side ended the session: this machine is not among its known peers any more")
	case errors.As(err, &told) && strings.HasPrefix(told.Reason, closeBroken):
		return failf(ClassGone, "have both sides run the same version of adit", err, "the other side ended the session: what it got from here makes no sense to it: %.200s", strings.TrimPrefix(told.Reason, closeBroken))
	case errors.Is(err, link.ErrFlood):
		return failf(ClassGone, "the other side is not to be trusted, or is broken", err, "the session was ended: the other side sends a flood of questions")
	case err == nil, errors.Is(err, link.ErrPeerClosed):
		return nil
	case errors.Is(err, link.ErrDead):
		return failf(ClassGone, "see whether the other side still runs and has a network, then connect again", err, "the peer is gone: nothing came from it for too long")
	case errors.Is(err, net.ErrClosed):
		return nil
	}
	return failf(ClassOther, "", err, "%v", err)
}

// abortWrongCode is the reason in a KindAbort message of a side whose guess at the code failed.
const abortWrongCode = "wrong-code"

// aborted says what the peer's abort message means to the person on this side.
func aborted(m signal.Message) error {
	switch reason := string(m.Body); reason {
	case abortWrongCode:
		return failf(ClassAuth, "ask the other side for a new code: a wrong guess burns it", handshake.ErrAuth, "the code is wrong, and is burnt now")
	default:
		return failf(ClassSignal, "start again on both sides", nil, "the other side ended the meeting: %.100q", reason)
	}
}
