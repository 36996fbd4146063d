// Package peer brings one peer within reach and keeps it there: it meets the peer over a signal
// channel, agrees on keys, finds a path, and hands out a session of streams over it.
//
//	signal (offer, answer)  ->  handshake (keys)  ->  punch (path)  ->  link (sealed probe)  ->  streams
//
// The side that makes the offer is the Noise initiator and the controlling ICE agent (RFC 8445
// section 6.1.1). With paste and exec that is the exposer, whose line is the first to travel; by
// code it is the connecter, because the exposer's room already holds its half of the PAKE, so two
// passes through the mailbox are enough.
//
// A path counts as up when a sealed probe came back over it, never because ICE says so.
package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"adit/internal/event"
	"adit/internal/handshake"
	"adit/internal/history"
	"adit/internal/link"
	"adit/reliable"
	"adit/signal"
)

// A Role says which end of the tunnel this is.
type Role uint8

const (
	Exposer   Role = iota // offers services
	Connecter             // asks for them
)

const (
	// meetFor is how long an offer may be answered: codes and pasted lines alike.
	meetFor = 10 * time.Minute

	// mapFor is how long a line that is about to be shown waits for the router, after everything else.
	mapFor = 300 * time.Millisecond

	// relayedFor is how long it waits for an address on a relay, which takes UDP two round trips, and TCP or TLS,
	// where UDP is blocked, streamAfter and four.
	relayedFor = 2 * time.Second

	// checkFor is how long connectivity checks may take once both sides know each other, where no
	// timeout was given. The peer's checks start at the same moment, give or take one delivery, so a
	// path that has not shown itself by then does not exist.
	checkFor = 30 * time.Second

	// resumeKnown and resumeOthers are how long a session outlives its peer's silence where nobody says.
	resumeKnown  = 24 * time.Hour
	resumeOthers = 10 * time.Minute

	// agentLinger is how long the ICE agent goes on answering after this side is up, so that the
	// peer's checks can end too. Data does not need it.
	agentLinger = 10 * time.Second
)

// Config says whom to meet and how. The zero value pastes through nothing and finds only host
// candidates; cmd fills it from flags and the config file.
type Config struct {
	Role        Role
	Signal      string              // "paste", "exec:CMD", or the http(s) URL of a rendezvous
	Code        string              // the connecter's code; only with a rendezvous
	Signals     []string            // by key: URLs of rendezvous, which are used all at once
	Key         [32]byte            // this machine's private key, to be met by and with Keep
	Keep        bool                // by code: tell the peer this machine's public key, to be known by later
	Peer        [32]byte            // the public key of the peer to dial, instead of a code
	PeerName    string              // what this side calls it
	STUN        []string            // host:port; nil asks a rendezvous for its list, and is none otherwise
	Port        int                 // fixed UDP port; 0 picks one
	PortMapping bool                // ask the router to forward the port
	Path        PathPolicy          // which paths may be used
	TURN        []signal.TURNServer // relays, besides those that the rendezvous knows
	TLS         *tls.Config         // for relays; nil trusts the system's roots
	Loopback    bool                // use loopback candidates too: both peers on one machine
	Timeout     time.Duration       // for the whole meeting; 0 waits for a person, and checkFor for checks
	SeekTimeout time.Duration       // by key: for the peer to answer at a rendezvous; 0 is for ever
	// ResumeTimeout is how long a session outlives its peer's silence; 0 is 24 hours for a peer that is met by
	// its key, and 10 minutes otherwise.
	ResumeTimeout time.Duration

	// Admit says, for Listen, whether the peer with a public key may have a session, and what it is called.
	// It is asked for each offer, from several goroutines: a look-up in memory.
	Admit func(public [32]byte) (name string, ok bool)
	Codes bool // for Listen: offer codes as well, one after the other
	// TargetsOf, if not nil, says what Listen offers to a peer, by its name, in the place of Targets.
	TargetsOf func(name string) []string

	Targets []string           // what an exposer offers, the default first
	Paste   signal.PasteConfig // where a pasted line is read and written
	Repaste bool               // Paste can be used after the meeting too: to bring a session back by other lines
	Events  event.Sink
	Logger  *slog.Logger // nil is silent

	Worked *history.History // what worked before; nil remembers nothing

	// Tombstones tell the peers of this process that it has died, should it; nil leaves them waiting.
	Tombstones *Tombstones

	// Budget bounds what the streams of all sessions that have it hold in memory; nil gives each session one of its own.
	Budget *reliable.Budget

	Who string // what tells the peer from others there, if it is known: its public key

	base   *base           // whose sockets to use; nil opens some
	buried <-chan struct{} // closed when peers of processes that have died were told; nil: nobody is told
}

// resumeTimeout returns ResumeTimeout or its default. A peer that is known comes back to the same machine the
// next morning; one that was met by a code or a pasted line is most likely gone for good.
func (c *Config) resumeTimeout() time.Duration {
	switch {
	case c.ResumeTimeout > 0:
		return c.ResumeTimeout
	case c.Who != "":
		return resumeKnown
	}
	return resumeOthers
}

var discard = slog.New(slog.DiscardHandler)

// A Session is one peer within reach.
type Session struct {
	end     *endpoint
	link    *link.Link
	streams *reliable.Session
	peer    signal.Description
	stop    context.CancelFunc
	began   time.Time

	name      string
	key       [32]byte
	kept      bool
	dismissed atomic.Bool // Dismiss has ended it
}

// Dial meets the peer and returns when the path is up. It reports what happens to cfg.Events, and
// fails with an *Error. Cancelling ctx unblocks it.
func Dial(ctx context.Context, cfg Config) (*Session, error) {
	if cfg.Logger == nil {
		cfg.Logger = discard
	}
	if cfg.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, cfg.Timeout, errTimeout)
		defer cancel()
	}
	buried, stop := cfg.bury()
	cfg.buried = buried
	s, err := meet(ctx, cfg)
	if err != nil {
		stop()
		<-buried
		return nil, classify(ctx, err)
	}
	s.end.wg.Go(func() {
		select {
		case <-buried:
		case <-s.end.ctx.Done():
		}
		stop()
		<-buried
	})
	return s, nil
}

// bury tells the peers of processes that have died, in the background, until stop is called.
func (cfg Config) bury() (done <-chan struct{}, stop context.CancelFunc) {
	ctx, stop := context.WithCancel(context.Background())
	c := make(chan struct{})
	go func() {
		defer close(c)
		cfg.Tombstones.Bury(ctx, cfg.Logger)
	}()
	return c, stop
}

// Streams returns the session's streams. They end when the session does.
func (s *Session) Streams() *reliable.Session { return s.streams }

// Targets returns what the peer offers, its default first; nil for a peer that offers nothing.
func (s *Session) Targets() []string { return s.peer.Targets }

// Wait blocks until the session ends: nil if either side closed it, an *Error if the peer is gone, or has
// dismissed this side (ErrUnknown).
func (s *Session) Wait() error {
	<-s.link.Done()
	return s.ending()
}

// Recover looks for another path at once, as when the network changed.
func (s *Session) Recover() {
	s.end.base.forget()
	s.end.networkChanged()
}

// Dismiss ends the session at once, because this side knows the peer no more, and tells the peer so. What is left of
// the session goes with Close.
func (s *Session) Dismiss() {
	s.dismissed.Store(true)
	_ = s.link.Close(closeUnknown) // never fails
}

// lastWord says why the session has ended, if there is a reason that either side gave.
func (s *Session) lastWord() string {
	if s.dismissed.Load() {
		return "this machine does not know the peer any more"
	}
	err := s.ending()
	var told *link.PeerClosedError
	if errors.Is(err, ErrUnknown) || errors.Is(err, reliable.ErrProtocol) || errors.Is(err, link.ErrFlood) || errors.As(err, &told) {
		return err.Error()
	}
	return ""
}

// ending returns why the session has ended, nil for an end that either side wanted.
func (s *Session) ending() error {
	if err := s.gone(); err != nil {
		return err
	}
	if err := s.streams.Err(); errors.Is(err, reliable.ErrProtocol) {
		return broken(err)
	}
	return ended(s.link.Err())
}

// Close tells the peer that this is the end, with an authenticated packet, and returns when every
// goroutine of the session has ended: streams first, then the link, then the sockets.
func (s *Session) Close() error {
	s.stop()
	return s.end.Close()
}

// start makes a session of an endpoint whose path is up.
// client is that of the rendezvous, nil if the two met without one.
func start(end *endpoint, p path, remote signal.Description, cfg Config, client *signal.Client, keys *handshake.Result) *Session {
	ctx, stop := context.WithCancel(context.Background())
	s := &Session{end: end, link: end.link, streams: end.streams, peer: remote, stop: stop, began: time.Now(), key: keys.PeerStatic, kept: keys.PeerKept}
	end.tellUp(p)
	r := newRoamer(end, client, keys)
	r.moved = true // it takes note of the path
	end.mu.Lock()
	end.roamer = r
	r.network = end.stale
	end.mu.Unlock()
	close(end.roams)
	end.wg.Go(r.run)
	end.base.stopRefresh() // from here on the link keeps the NAT's mapping alive
	end.wg.Go(func() {
		select {
		case <-s.link.Done():
			s.streams.CloseWithError(s.ending())
		case <-s.streams.Done(): // the session is of no use without them
			if err := s.streams.Err(); errors.Is(err, reliable.ErrProtocol) {
				_ = s.link.Close(closeBroken + err.Error()) // never fails
			}
		case <-ctx.Done():
		}
		closed := event.Event{Name: event.Closed, Message: s.lastWord()}
		if errors.Is(s.link.Err(), link.ErrPeerClosed) && s.gone() == nil {
			closed.Side = event.Peer
		}
		cfg.Events.Emit(closed)
	})
	end.wg.Go(func() {
		select {
		case <-end.searched:
		case <-s.link.Done():
		case <-ctx.Done():
		}
		t := time.NewTimer(agentLinger)
		defer t.Stop()
		select {
		case <-t.C:
		case <-s.link.Done():
		case <-ctx.Done():
		}
		end.closeAgent()
	})
	return s
}
