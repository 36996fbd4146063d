// Package tunnel forwards connections over a session of streams: it listens where ssh's -L would,
// serves what a policy offers, joins standard input and output to a target (-W), and pipes. It knows
// no ICE and no KCP: all it sees is a Session.
//
//	client ── Listener ── Stream ─────── Stream ── Serve ── target
//	           Open(header)       Accept    policy, dial, Accept or Refuse
//
// A listener opens a stream with the target in its header and sends at once, without waiting for the
// reply. Each direction ends alone: the end of a TCP connection's input becomes the end of the
// stream's output and the reverse; an error on either side becomes a reset on the other.
//
// Errors: [RefusedError] (the peer's policy or its target said no), [ListenError] and [ErrListen]
// (a local address cannot be listened on), [LocalError] (standard input or output failed), [ErrPipe] (the peer left a pipe before its end),
// [ErrHeader] (a stream header of another make). Nothing here prints.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
)

// Codes with which a stream is refused. All codes below CodeReset are refusals; a listener takes one that it does not
// know for CodeUnreachable.
const (
	CodeRefused     uint32 = 1 // the policy does not offer the target
	CodeUnreachable uint32 = 2 // the target is offered and could not be dialled
	CodeUsage       uint32 = 3 // the header makes no sense to this version

	// These say more than CodeUnreachable.
	CodeDialRefused uint32 = 4 // the target's host refused the connection
	CodeDialTimeout uint32 = 5 // nothing answered in time
	CodeNoNetwork   uint32 = 6 // the target's network is unreachable
	CodeBusy        uint32 = 7 // too many connections are being made
)

// Codes with which a stream is reset.
const (
	CodeReset    uint32 = 16 // the connection behind the stream failed or was reset
	CodeCanceled uint32 = 17 // this side stops
)

// A Stream is one reliable byte stream of a session. Reads return io.EOF at the end that the peer's
// CloseWrite made, and another error if the stream or its session failed.
type Stream interface {
	net.Conn

	// CloseWrite ends the outgoing direction after the bytes written so far.
	CloseWrite() error

	// Header returns what the opener passed to Open.
	Header() []byte

	// Accept lets the opener know that the stream is served; Refuse that it is not, and why. Only the
	// side that did not open it calls one of them, once.
	Accept() error
	Refuse(code uint32, reason string) error

	// WaitAccepted blocks until the peer accepted the stream; a *RefusedError says that it did not.
	WaitAccepted(ctx context.Context) error

	// Reset ends both directions because something failed: the peer's reads fail with code after the bytes written so
	// far, its writes at once.
	Reset(code uint32) error

	// Done is closed when reads end, or will end after what is here and on its way, with an error: a reset of either
	// side, or the end of the session.
	Done() <-chan struct{}
}

// A DuplexStream is a Stream whose directions fail alone, too. Those that carry connections are.
type DuplexStream interface {
	Stream

	// CopyTo writes to w what the peer sends, until the peer's direction ends or w fails. Both errors are nil at the
	// proper end; readErr is what Read would return, writeErr that of w.
	CopyTo(w io.Writer) (n int64, readErr, writeErr error)

	// AwaitWrite blocks until Write would not, and returns about how many bytes it would take, or its error.
	AwaitWrite() (int, error)

	// ResetWrite ends the outgoing direction because something failed, as Reset does. StopRead ends the incoming one:
	// the peer's writes fail.
	ResetWrite(code uint32)
	StopRead(code uint32)

	// Stopped is closed when nothing can be written any more, whatever the reason.
	Stopped() <-chan struct{}

	// Unread returns how many bytes are still to be read, as far as this side knows.
	Unread() int64
}

// A Session opens streams to a peer and accepts those of the peer.
type Session interface {
	// Open returns as soon as the stream may be written to, which is before the peer accepts it. It
	// may return a *RefusedError if the peer is quick.
	Open(ctx context.Context, header []byte) (Stream, error)
	Accept(ctx context.Context) (Stream, error)
}

// A RefusedError says that the peer refused a stream.
type RefusedError struct {
	Code   uint32 // CodeRefused, CodeUnreachable or another below CodeReset
	Reason string // the peer's sentence, made safe to print
}

func (e *RefusedError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("the peer refused the stream with code %d", e.Code)
	}
	return "the peer refused the stream: " + e.Reason
}

// Options are what Listen and Serve share. The zero value works.
type Options struct {
	// OnListen is called once for each forward, before its first connection is accepted, with the real
	// address and the target; the target is "" for the peer's default.
	OnListen func(addr net.Addr, target string)

	// OnStream is called when a stream opens and when it ends, from many goroutines at once. It must
	// not block for long.
	OnStream func(StreamEvent)

	// Flows bounds the flows of datagrams of all listeners that share it; nil is a budget for each listener alone.
	Flows *FlowBudget

	// Logger may be nil.
	Logger *slog.Logger
}

// What a StreamEvent's State may be.
const (
	StateOpen    = "open"    // accepted by the peer, or by this side's policy
	StateClosed  = "closed"  // both directions came to their end
	StateRefused = "refused" // never opened
	StateReset   = "reset"   // failed while it was open, or before it was known to be
)

// A StreamEvent tells what became of one stream.
type StreamEvent struct {
	State    string
	Target   string // canonical; "" for the peer's default
	Peer     string // address of the local client; "" where the stream came from the peer
	Reason   string // why it was refused or reset
	Sent     int64  // bytes from this side's connection into the stream
	Received int64  // bytes from the stream into this side's connection
}

func (o *Options) stream(e StreamEvent) {
	if o.OnStream != nil {
		o.OnStream(e)
	}
}

func (o *Options) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

// ended turns how a stream ended into its event.
func ended(e StreamEvent, sent, received int64, err error) StreamEvent {
	e.Sent, e.Received = sent, received
	var refused *RefusedError
	switch {
	case err == nil:
		e.State = StateClosed
	case errors.As(err, &refused):
		e.State, e.Reason = StateRefused, refused.Reason
	default:
		e.State, e.Reason = StateReset, err.Error()
	}
	return e
}
