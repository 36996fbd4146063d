// Package event is the one stream in which every layer of adit says what happens: to a person as a
// status line, to a script as JSON lines (docs/events.md). It imports nothing of adit, so that any
// layer may report; only cmd decides how an event looks.
package event

import "time"

// Event names, as they stand in the "event" field of JSON lines. They are part of the interface:
// scripts match on them.
const (
	Token       = "token"       // a token to hand to the peer
	Code        = "code"        // a short code to hand to the peer
	Gathering   = "gathering"   // finding this machine's addresses
	Checking    = "checking"    // trying paths to the peer
	Up          = "up"          // a sealed probe came back: the path works
	Relayed     = "relayed"     // the path stays on a relay; Message and Hint say why
	Words       = "words"       // verification words, equal on both screens
	Listening   = "listening"   // a local port accepts connections
	Stream      = "stream"      // a stream opened, ended, or was refused
	Interrupted = "interrupted" // nothing authenticated arrived for a while
	Error       = "error"       // something failed; Code, Message and Hint say what
	Closed      = "closed"      // the session ended
	Reloaded    = "reloaded"    // the files were read again; State is ok or failed
	Ping        = "ping"        // a ping was answered, or not
	PingSummary = "pings"       // what became of all of them
	Sample      = "sample"      // what a measurement sees at this moment
	Bench       = "bench"       // what it found
	Doctor      = "doctor"      // what the network allows
	Reachable   = "reachable"   // peers that know this machine's key can find it at a rendezvous
	Unreachable = "unreachable" // a rendezvous cannot be reached, for now
	Absent      = "absent"      // the peer is not at the rendezvous; it is waited for
	Unseen      = "unseen"      // no STUN server answered; Message and Hint say what that means
	Calling     = "calling"     // the peer is there and was offered a session
	Unanswered  = "unanswered"  // it did not answer
	Saved       = "saved"       // a peer is known by name and key from now on
)

// Peer is the Side of what the peer does: it listens, or it has ended the session.
const Peer = "peer"

// An Event is one thing that happened. Only the fields that its Name calls for are set.
type Event struct {
	Name string    `json:"event"`
	Time time.Time `json:"time"`

	Peer  string   `json:"peer,omitempty"` // its name, where one side has several
	Key   string   `json:"key,omitempty"`  // its public key
	Token string   `json:"token,omitempty"`
	Code  string   `json:"code,omitempty"`
	Words []string `json:"words,omitempty"`

	Path      string  `json:"path,omitempty"`      // "direct" or "relay"
	Transport string  `json:"transport,omitempty"` // to this side's relay: udp, tcp or tls
	Local     string  `json:"local,omitempty"`     // candidate type and address of this side
	Remote    string  `json:"remote,omitempty"`    // candidate type and address of the peer
	RTT       float64 `json:"rtt_ms,omitempty"`    // milliseconds

	Side   string `json:"side,omitempty"`   // "peer" if it is the peer that listens, or that ended the session
	Addr   string `json:"addr,omitempty"`   // a listener's real address
	Target string `json:"target,omitempty"` // where its streams go
	State  string `json:"state,omitempty"`  // of a stream: open, closed, refused, reset

	Message string `json:"message,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

// A Sink takes events. It must not block for long and may be called from any goroutine.
type Sink func(Event)

// Emit hands e to s with its time filled in. A nil Sink drops it.
func (s Sink) Emit(e Event) {
	if s == nil {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	s(e)
}
