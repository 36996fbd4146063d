// Package forwards keeps what is forwarded in force: listeners that are open before there is a session and stay when one
// session follows another, and a plan that may change while connections are open. It prints nothing: Told hears of it.
package forwards

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"adit/internal/event"
	"adit/internal/peer"
	"adit/internal/plan"
	"adit/reliable"
	"adit/tunnel"
)

// A Told hears of what happens to forwards. All fields are wanted.
type Told struct {
	Event    func(event.Event)                // streams, and listeners
	Unlisten func(event.Event)                // the Listening event of a listener that is no more
	Say      func(format string, args ...any) // tells a person
	Explain  func(error) string               // says what is wrong and what to do
	Logger   *slog.Logger
	Flows    *tunnel.FlowBudget // of datagrams
}

// remoteWait is how long a peer may take to listen where -R says before others have their turn.
const remoteWait = 15 * time.Second

// ErrNoAnswer says that remoteWait was not enough.
var ErrNoAnswer = errors.New("the peer does not answer")

// A Carrier is what a Forwarder needs of a session: a *peer.Session.
type Carrier interface {
	Streams() *reliable.Session
	Targets() []string
	Stats() peer.Stats
	Wait() error
}

// A Forwarder has what a plan.Forwarding asks for: its listeners are open before there is a session, so that
// a port in use does not cost a code. What is asked for may change later.
type Forwarder struct {
	told    Told
	session *Later
	remotes *tunnel.Remotes
	ctx     context.Context // of the listeners: it ends with close
	command context.Context // of the command: what waits for the peer to answer ends with it, too

	peer string // its name, where there are forwards to several; constant

	stop   context.CancelCauseFunc
	served chan error // the one result of Serve; nil before begin

	mu      sync.Mutex
	plan    plan.Forwarding
	begun   Carrier // nil while there is none
	closed  bool
	opened  []opened
	drained []*tunnel.Listener // listened at no more; what is open there goes on
}

// opened is one forward that is in force.
type opened struct {
	flag    string // "-L", "-R" or "-D"
	forward tunnel.Forward
	chosen  bool                   // by the command itself
	told    event.Event            // of its place, once there was a session
	here    *tunnel.Listener       // of -L and -D
	there   *tunnel.RemoteListener // of -R; nil before begin
}

// Open listens, for a command that ends with ctx. The caller closes what it returns.
func Open(ctx context.Context, told Told, asked plan.Forwarding) (*Forwarder, error) {
	f := &Forwarder{told: told, session: newLater(), remotes: tunnel.NewRemotes(), command: ctx}
	f.ctx, f.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	f.mu.Lock()
	err := f.changeLocked(asked)
	f.mu.Unlock()
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Begin starts to forward over s, as use does, and serves the peer's streams by offer. While the path is interrupted it
// waits for the peer's answer to -R, as long as the session and the command last.
func (f *Forwarder) Begin(s Carrier, offer tunnel.Offer) error {
	offer.Remotes = f.remotes
	served := make(chan error, 1)
	f.served = served
	go func() { served <- tunnel.Serve(f.ctx, tunnel.Over(s.Streams()), offer, f.Options()) }()
	err := f.use(s)
	for errors.Is(err, ErrNoAnswer) {
		f.mu.Lock() // whoever waits has had a turn
		err = f.changeLocked(f.plan)
		f.mu.Unlock()
	}
	return err
}

// use forwards over s: it tells where is listened, and has the peer listen. A peer that does not is an error, and
// ErrNoAnswer one that is silent. Somebody serves s with the set of remotes.
func (f *Forwarder) use(s Carrier) error {
	f.session.set(tunnel.Over(s.Streams()))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begun = s
	for i := range f.opened {
		f.tell(&f.opened[i])
	}
	return f.changeLocked(f.plan)
}

// Pause is for the end of a session that another will follow: its listeners stay, and their connections wait for
// begin.
func (f *Forwarder) Pause() {
	f.session.gone()
	if f.served != nil {
		<-f.served
		f.served = nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begun = nil
	f.opened = slices.DeleteFunc(f.opened, func(o opened) bool { // begin asks for them again
		if o.there != nil {
			_ = o.there.Close() // the session has ended, most likely
			f.told.Unlisten(o.told)
		}
		return o.there != nil
	})
}

// Session returns the session that carries what is forwarded; it waits while there is none.
func (f *Forwarder) Session() tunnel.Session { return f.session }

// Options reports streams as events, with the peer's name where there are several.
func (f *Forwarder) Options() tunnel.Options {
	return tunnel.Options{Logger: f.told.Logger, Flows: f.told.Flows, OnStream: func(e tunnel.StreamEvent) {
		f.told.Event(event.Event{Name: event.Stream, Peer: f.peer, State: e.State, Target: e.Target, Message: e.Reason})
	}}
}

// Close ends all of it. Closing a listener resets what is left of its connections, so it comes after the
// session's goodbye.
func (f *Forwarder) Close() {
	f.stop(net.ErrClosed)
	f.mu.Lock()
	f.closed = true
	for _, o := range f.opened {
		if o.here != nil {
			_ = o.here.Close() // never fails
		}
	}
	for _, l := range f.drained {
		_ = l.Close() // never fails
	}
	f.mu.Unlock()
	if f.served != nil {
		<-f.served // for the goroutines; the reason why it ended is the session's
		f.served = nil
	}
}
