// Package handshake agrees on keys between two peers who exchange exactly two messages, the offer and
// the answer, before any path between them exists.
//
// The model:
//
//	              ModePaste (Noise IX)            ModeCode (CPace, then Noise IXpsk0)
//
//	creator                                        Ya ->
//	joiner                                         <- Yb          both: psk = HKDF(ISK)
//	initiator     offer:  e, s                     psk, e, s      + flags, commitment to N_a, payload
//	responder     answer: e, ee, se, s, es         the same       + flags, N_b, payload
//	initiator     N_a, over the finished link      the same       Result.Reveal -> Result.Verify
//
//	              ModeKey (Noise IK)
//
//	responder     challenge, published anywhere
//	initiator     offer:  e, es, s, ss             + flags, challenge, payload
//	responder     answer: e, ee, se                + flags, payload
//
//	              Rekeying (Noise KKpsk0), over the link, as often as wanted
//
//	initiator     psk, e, es, ss
//	responder     e, ee, se
//
// A PAKE turns a short Code into a key that only one guess can attack; an Initiator and a Responder run
// Noise; both end with a Result: the link keys, the cipher both processors like, and four verification
// words that two people may compare. The words are derived from both nonces, of which the initiator's
// is committed to first, so that somebody in the middle has one guess at making them equal.
//
// In ModePaste the messages authenticate nobody by themselves: the channel they were pasted into does,
// or the words. In ModeCode the first message that opens proves that the peer knew the code. In both, the
// responder has proof of a live initiator only once a packet sealed with Result.Recv has opened. In ModeKey
// both prove their static keys with the first message; a Guard keeps a recorded offer from being one.
//
// The package opens no sockets, starts no goroutines, keeps no files, and knows nothing of what the
// payloads mean. None of its types but Guard may be used by two goroutines at once.
//
// Errors that callers may test for: ErrAuth, ErrMalformed, ErrVersion, ErrState, ErrCode, ErrStranger,
// ErrReplay.
package handshake

import "errors"

var (
	// ErrAuth means that a message was not made by a peer with the right secrets for this very
	// handshake: a wrong code, another context or mode, another offer's answer, or an attack.
	ErrAuth = errors.New("handshake authentication failed")
	// ErrMalformed means that a message cannot be one of ours: its length is impossible.
	ErrMalformed = errors.New("malformed handshake message")
	// ErrVersion means that the peer speaks another version of the handshake.
	ErrVersion = errors.New("unsupported handshake version")
	// ErrState means a call out of order, or on something that has already failed or finished.
	ErrState = errors.New("handshake call out of order")
	// ErrCode means that a string is not a code a person could have been given.
	ErrCode = errors.New("invalid code")
	// ErrStranger means that an offer's static key is not one that may go on.
	ErrStranger = errors.New("key not on the list")
	// ErrReplay means that an offer was there before, or answers a challenge that is no longer open.
	ErrReplay = errors.New("offer is not fresh")
)

const (
	// version stands in each message, and says what two peers speak after the handshake, too. Version 2 has the stream
	// messages RESET with a size and STOP with a code.
	version = 2

	// versionLabel stands in the prologue and in the key derivation labels, which are those of version 1: so a peer of
	// another version is told from one with a wrong key.
	versionLabel = "adit/1"
)
