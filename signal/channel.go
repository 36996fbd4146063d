// Package signal carries the few messages two peers need before they have a path to each other: an
// offer, an answer, and candidates found later. It knows what a message looks like, in binary and as
// one line of text that survives a chat, and how to move it:
//
//	paste   a person carries one line each way        NewPaste
//	exec    a command's standard input and output do  NewExec
//	rooms   a rendezvous server's mailboxes over HTTP  Client
//
// Each of them is a Channel. The body of a message is opaque here, with one exception: Description is
// the payload that the handshake seals into offers and answers. Nothing in this package is secret or
// authenticates anything; that is the handshake's part.
//
// Errors: *TokenError for text that is no usable token, ErrTooLong for what would not fit, and for
// rooms ErrNoRoom, ErrRoomTaken, ErrBusy, ErrAccess and ErrPeerGone. What fails because the channel has been
// closed unwraps to net.ErrClosed.
package signal

import (
	"context"
	"errors"
)

var (
	// ErrNoRoom says that the rendezvous has no room of that name, or no longer.
	ErrNoRoom = errors.New("no such room")

	// ErrRoomTaken says that somebody joined the room before: a code works for one joiner.
	ErrRoomTaken = errors.New("the room has been joined already")

	// ErrBusy says that the rendezvous is full or thinks that this address asks too often.
	ErrBusy = errors.New("the rendezvous is busy")

	// ErrAccess says that the rendezvous is not open to everybody, or that it does not know a token.
	ErrAccess = errors.New("the rendezvous refuses access")

	// ErrPeerGone says that the other side left and sends nothing any more.
	ErrPeerGone = errors.New("the other side has left")

	// ErrTooLong says that a message does not fit its channel: MaxMessage bytes in binary,
	// MaxToken characters as a token.
	ErrTooLong = errors.New("message too long")
)

// A Channel moves whole messages between two peers. Send and Receive may be called at the same time
// from two goroutines, but neither twice at once.
type Channel interface {
	// Send hands m over. It returns when the message is on its way, not when the peer has it. The
	// body is not retained. ErrTooLong if m does not fit.
	Send(ctx context.Context, m Message) error

	// Receive waits for the peer's next message. It returns early with the cause of ctx when that
	// ends, and with an error that unwraps to net.ErrClosed after Close. The body is the caller's.
	Receive(ctx context.Context) (Message, error)

	// Trickles reports whether messages may follow the offer and the answer at no trouble to a
	// person, so that candidates need not be complete when the first message is sent.
	Trickles() bool

	// Close unblocks Receive and releases what the channel holds. It may be called more than once.
	Close() error
}
