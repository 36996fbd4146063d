package reliable

import (
	"errors"
	"fmt"
	"net"
)

// Codes with which this package itself resets a stream. Those below 1<<16 are the caller's.
const (
	// CodeClosed: the peer closed the stream before it was accepted, or stopped reading it.
	CodeClosed uint32 = 1<<16 + iota
	// CodeBusy: the peer has as many streams as it takes.
	CodeBusy
	// CodeProtocol: the stream broke the wire format.
	CodeProtocol
	// CodeTimeout: what was written before Close did not reach the peer in time.
	CodeTimeout
)

var (
	// ErrTooManyStreams is returned by Open when MaxStreams are open or still on their way out.
	ErrTooManyStreams = errors.New("too many streams")

	// ErrHeaderTooLong is returned by Open for a header of more than MaxHeader bytes.
	ErrHeaderTooLong = errors.New("stream header too long")

	// ErrProtocol is wrapped by the error of a session that ended because the peer sent what makes no
	// sense in the control conversation.
	ErrProtocol = errors.New("protocol error")

	errExhausted    = errors.New("no stream numbers left")
	errStreamClosed = fmt.Errorf("stream closed: %w", net.ErrClosed)
)

// A StreamError is what reads and writes return after a reset or a refusal of their stream. That of
// this side unwraps to net.ErrClosed.
type StreamError struct {
	Code   uint32
	Reason string // the refusing side's words, at most 256 bytes, as they came; "" if there are none
	Remote bool   // the peer did it
}

func (e *StreamError) Error() string {
	who := "here"
	if e.Remote {
		who = "by the peer"
	}
	what := fmt.Sprintf("code %d", e.Code)
	switch e.Code {
	case CodeClosed:
		what = "closed"
	case CodeBusy:
		what = "too many streams"
	case CodeProtocol:
		what = "protocol error"
	case CodeTimeout:
		what = "timeout"
	}
	if e.Reason != "" {
		return fmt.Sprintf("stream reset %s: %s: %q", who, what, e.Reason)
	}
	return fmt.Sprintf("stream reset %s: %s", who, what)
}

// Unwrap returns net.ErrClosed for a reset by this side.
func (e *StreamError) Unwrap() error {
	if e.Remote {
		return nil
	}
	return net.ErrClosed
}

// A sessionError is what calls on a session and its streams return after the session ended.
type sessionError struct{ cause error }

func (e *sessionError) Error() string {
	if e.cause == net.ErrClosed {
		return "session closed"
	}
	return "session closed: " + e.cause.Error()
}

func (e *sessionError) Unwrap() []error { return []error{net.ErrClosed, e.cause} }
