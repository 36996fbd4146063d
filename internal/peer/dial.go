package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"adit/internal/event"
	"adit/internal/handshake"
	"adit/internal/link"
	"adit/internal/netmon"
	"adit/signal"
)

const (
	// nextAfter is how long an offer at one rendezvous may remain without an answer before another one is
	// used as well.
	nextAfter = 4 * time.Second

	// seekFor is how long one request waits for a peer to come.
	seekFor = 25 * time.Second

	// elsewhereFor is how long the word that a peer is not at one rendezvous waits for another rendezvous to have it.
	elsewhereFor = 500 * time.Millisecond

	// watchEvery is how often who has dialled looks whether the peer is still there while nothing else says
	// so, watchFor how long the answer may take.
	watchEvery = 8 * time.Second
	watchFor   = 3 * time.Second

	// buriedFor is how long an offer waits for the peer to be told of a process of this machine that has died: what it
	// held over there is free then.
	buriedFor = time.Second

	replacedAfter = 1500 * time.Millisecond // an offer without an answer: is the peer still the same process? Then after twice that

	processBytes = 8 // of a challenge: which process of the peer's it is, see handshake.Guard
)

// ErrRestarted says that the peer's process is another than the one that was met.
var ErrRestarted = errors.New("the peer was started again")

// ErrAbsent says that the peer is not at any rendezvous, or that none could be asked.
var ErrAbsent = errors.New("the peer is not at the rendezvous")

// errSought ends the wait for a peer to be at a rendezvous: see Config.SeekTimeout.
var errSought = errors.New("the time for looking is over")

// A caller looks for a peer by its key at several rendezvous at once.
type caller struct {
	cfg    Config
	static *handshake.KeyPair
	fresh  *fresh
	turn   chan struct{} // capacity 1: held by who has made an offer, for nextAfter at most
	got    chan answered // capacity: one for each rendezvous

	mu         sync.Mutex
	end        *endpoint
	seen       bool              // the peer was at some rendezvous
	unanswered int               // offers that the peer did not take
	trouble    map[string]string // by the URL of a rendezvous: why the peer is not met there
}

// answered is the peer's answer, with the room that it came into.
type answered struct {
	client    *signal.Client
	room      *signal.Room
	told      []signal.Candidate // what the offer said of this side
	remote    signal.Description
	keys      *handshake.Result
	challenge [16]byte
	err       error // none of the others; looking for the peer has no sense
}

// dialByKey meets the peer whose key is cfg.Peer. A peer that is not there yet is waited for, and so is a
// network.
func dialByKey(ctx context.Context, cfg Config) (_ *Session, err error) {
	if len(cfg.Signals) == 0 {
		return nil, failf(ClassSignal, "name a rendezvous with --signal", nil, "a peer can be met by its key only at a rendezvous")
	}
	cfg.Who = who(cfg.Peer)
	c := &caller{
		cfg: cfg, static: handshake.KeyPairFrom(cfg.Key), fresh: newFresh(),
		turn: make(chan struct{}, 1), got: make(chan answered, len(cfg.Signals)), trouble: make(map[string]string),
	}
	monitor := netmon.Open(cfg.Logger, func(netmon.Event) { c.fresh.changed() })
	defer monitor.Close()
	search, enough := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, url := range cfg.Signals {
		wg.Go(func() { c.seek(search, url) })
	}
	var sought <-chan time.Time // nil: for as long as ctx
	if cfg.SeekTimeout > 0 {
		t := time.NewTimer(cfg.SeekTimeout)
		defer t.Stop()
		sought = t.C
	}
	var a answered
	select {
	case a = <-c.got:
	case <-sought:
		a.err = c.timedOut(errSought)
	case <-ctx.Done():
		a.err = c.timedOut(context.Cause(ctx))
	}
	enough()
	wg.Wait()
	close(c.got)
	for other := range c.got { // it answered twice: the other session comes to nothing
		if other.room != nil {
			other.room.Close()
		}
	}
	end := c.end
	defer func() {
		if a.room != nil {
			a.room.Close()
		}
		if err != nil && end != nil {
			end.Close()
		}
	}()
	if a.err != nil {
		return nil, a.err
	}
	// The offer is as old as the peer's absence; what this side has found since then follows.
	late := newLate()
	for _, c := range end.description(late.add).Candidates {
		if !slices.Contains(a.told, c) {
			late.add(toPunch(c))
		}
	}
	end.allocateFrom(a.room)
	if err := end.check(a.remote, a.keys, true, false); err != nil {
		return nil, err
	}
	s, err := finish(ctx, cfg, end, a.client, a.room, a.remote, a.keys, true, late)
	if err != nil {
		return nil, err
	}
	s.name = cfg.PeerName
	end.wg.Go(func() { s.watch(end.ctx, cfg, [processBytes]byte(a.challenge[:])) })
	return s, nil
}

// timedOut says why nobody was met until cause ended the search.
func (c *caller) timedOut(cause error) error {
	if !errors.Is(cause, errSought) && !errors.Is(cause, errTimeout) {
		return cause
	}
	class := ClassTimeout
	if c.cfg.SeekTimeout > 0 {
		class = ClassSignal
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unanswered > 0 {
		return failf(class, `see whether "adit peers list" over there names this machine's key, which "adit key" shows`, cause, "%s is there and did not answer: it may not know this machine", c.cfg.peer())
	}
	if c.seen {
		return failf(class, "try again, or allow more time with --timeout", cause, "%s is at the rendezvous and did not answer in time", c.cfg.peer())
	}
	if len(c.trouble) == 0 {
		return failf(class, "check --signal and the network, or allow more time with --timeout", errors.Join(cause, ErrAbsent), "no rendezvous answered in time")
	}
	var all []string
	for _, url := range c.cfg.Signals {
		if why := c.trouble[url]; why != "" {
			all = append(all, why)
		}
	}
	return failf(class, `run "adit expose TARGET --listen" there with the same --signal, or allow more time with --timeout`, errors.Join(cause, ErrAbsent), "%s", strings.Join(all, "; "))
}

// peer names the peer in a sentence.
func (c *Config) peer() string {
	if c.PeerName != "" {
		return c.PeerName
	}
	return "the peer"
}

// absent says that the peer is not at a rendezvous, unless it is found at another within elsewhereFor.
func (c *caller) absent(ctx context.Context, url string) {
	message := fmt.Sprintf("%s is not listening at %s", c.cfg.peer(), url)
	c.note(url, message)
	if len(c.cfg.Signals) > 1 && !sleep(ctx, elsewhereFor) {
		return
	}
	c.mu.Lock()
	seen := c.seen
	c.mu.Unlock()
	if !seen {
		c.cfg.Events.Emit(event.Event{Name: event.Absent, Addr: url, Message: message})
	}
}

// note keeps why the peer is not met at a rendezvous; "" for one where it is.
func (c *caller) note(url, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trouble[url] = why
	c.seen = c.seen || why == ""
}

// seek looks for the peer at one rendezvous until it has an answer or ctx ends.
func (c *caller) seek(ctx context.Context, url string) {
	client := &signal.Client{URL: url}
	defer client.CloseIdle()
	door, err := client.KeyDoor(c.cfg.Peer)
	if err != nil {
		c.got <- answered{err: failf(ClassSignal, "check --signal and the peer's key", err, "%v", err)}
		return
	}
	defer door.Close()
	var wait backoff
	told := false // that the rendezvous cannot be reached
	for missed := false; ctx.Err() == nil; {
		began := time.Now()
		one, done := c.fresh.with(ctx)
		patience := seekFor
		if !missed {
			patience = 0 // the first question is whether the peer is there now
		}
		a, err := c.try(one, client, door, patience)
		done()
		var fatal *Error
		switch {
		case err == nil:
			a.client = &signal.Client{URL: url}
			c.got <- a
			return
		case ctx.Err() != nil:
			return
		case errors.As(err, &fatal):
			c.got <- answered{err: fatal}
			return
		case errors.Is(err, errNotThere):
			told = false
			if !missed {
				missed = true
				c.absent(ctx, url)
				continue
			}
			if time.Since(began) > seekFor/2 {
				wait = backoff{} // it was a wait, and is worth another
			}
		case errors.Is(err, signal.ErrNobody):
			told, missed = false, false
			if time.Since(began) > seekFor/2 {
				wait = backoff{}
			}
		default:
			c.cfg.Logger.Debug("rendezvous not reached", "url", signal.PublicURL(url), "err", err) // again and again; an event tells the first
			c.note(url, unreachable(url, err).Message)
			if !told {
				c.cfg.Events.Emit(unreachable(url, err))
			}
			told = true
		}
		if !sleep(ctx, max(wait.next(), signal.RetryAfter(err))) {
			return
		}
	}
}

// errNotThere says that nobody holds the peer's key at a rendezvous.
var errNotThere = fmt.Errorf("the peer is not there: %w", signal.ErrNobody)

// try waits for patience for the peer to be there, makes an offer and waits for the answer. An *Error is final.
func (c *caller) try(ctx context.Context, client *signal.Client, door *signal.KeyDoor, patience time.Duration) (a answered, err error) {
	stun := make(chan []string, 1)
	failed := make(chan error, 1)
	ctx, over := context.WithCancel(ctx)
	defer over()
	go func() { // at once: each costs a round trip; ends with this try
		s, err := stunServers(ctx, c.cfg, client)
		failed <- err
		stun <- s
	}()
	a.challenge, err = door.Challenge(ctx, patience)
	if errors.Is(err, signal.ErrNobody) {
		err = errNotThere
	} else if err == nil {
		c.note(client.URL, "")
	}
	if err != nil {
		return a, err
	}
	stunErr, servers := <-failed, <-stun
	if stunErr != nil {
		var e *Error
		if errors.As(stunErr, &e) {
			return a, errors.New(e.Message) // it may work the next time
		}
		return a, stunErr
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-time.After(nextAfter): // at most one for each rendezvous
	case <-ctx.Done():
		return a, context.Cause(ctx)
	}
	end, err := c.endpoint(ctx, servers)
	if err != nil {
		return a, err
	}
	noise, err := handshake.NewInitiator(handshake.Config{
		Mode: handshake.ModeKey, Static: c.static, Peer: c.cfg.Peer, Challenge: a.challenge,
	})
	if err != nil {
		return a, failf(ClassAuth, "check the peer's key", err, "%v", err)
	}
	d := end.description(nil)
	a.told = d.Candidates
	offer, err := noise.Offer(marshal(d))
	if err != nil {
		return a, failf(ClassAuth, "check the peer's key", err, "%v", err)
	}
	if c.cfg.buried != nil {
		select {
		case <-c.cfg.buried:
		case <-time.After(buriedFor):
		case <-ctx.Done():
			return a, context.Cause(ctx)
		}
	}
	c.cfg.Events.Emit(event.Event{Name: event.Calling})
	began := time.Now()
	offering, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		if replaced(offering, door, [processBytes]byte(a.challenge[:])) {
			stop(errReplaced)
		}
	}()
	room, err := door.Offer(offering, signal.Message{Kind: signal.KindOffer, Expires: time.Now().Add(meetFor), Body: offer})
	if err != nil {
		if errors.Is(context.Cause(offering), errReplaced) {
			return a, fmt.Errorf("%w: %w", errReplaced, signal.ErrNobody)
		}
		if errors.Is(err, signal.ErrNobody) && time.Since(began) > seekFor/2 {
			c.mu.Lock()
			c.unanswered++
			first := c.unanswered == 1
			c.mu.Unlock()
			if first {
				c.cfg.Events.Emit(event.Event{Name: event.Unanswered, Message: "the peer is there and does not answer: it may not know this machine's key"})
			}
		}
		return a, err
	}
	m, err := receive(ctx, room, signal.KindAnswer)
	var payload []byte
	if err == nil {
		payload, a.keys, err = noise.Finish(m.Body)
	}
	if err == nil {
		a.remote, err = signal.ParseDescription(payload)
	}
	if err != nil {
		room.Close()
		return a, fmt.Errorf("read the answer: %v", err) // the rendezvous' doing, which may be in better hands elsewhere
	}
	a.room = room
	return a, nil
}

// errReplaced ends the wait for a process of the peer's that is another one by now.
var errReplaced = errors.New("the peer was started again")

// replaced waits until the peer's mailbox has the challenge of another process than the one that an offer was made to,
// which cannot read it: the peer was started again while the offer was made. It is false once ctx has ended.
func replaced(ctx context.Context, door *signal.KeyDoor, process [processBytes]byte) bool {
	for wait := replacedAfter; sleep(ctx, wait); wait *= 2 {
		c, err := door.Challenge(ctx, 0)
		if err == nil && [processBytes]byte(c[:]) != process {
			return true
		}
	}
	return false
}

// endpoint returns the one endpoint of all offers, with candidates.
func (c *caller) endpoint(ctx context.Context, stun []string) (*endpoint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end == nil {
		end, err := open(c.cfg, stun)
		if err != nil {
			return nil, err
		}
		c.end = end
	}
	c.end.settleFor(ctx, offerWait)
	return c.end, nil
}

// watch ends the session when the peer's process is another than the one that was met: it knows nothing of
// this session, so that nothing will come of waiting. It asks the rendezvous when the peer does not answer.
func (s *Session) watch(ctx context.Context, cfg Config, process [processBytes]byte) {
	for sleep(ctx, watchEvery*3/4+rand.N(watchEvery/4)) {
		one, cancel := context.WithTimeout(ctx, watchFor)
		_, err := s.link.Ping(one)
		cancel()
		if err == nil || s.link.Err() != nil {
			continue
		}
		if cfg.elsewhere(ctx, process) {
			cfg.Logger.Info("the peer was started again")
			s.end.died.Store(errRestarted())
			s.link.Close("")
			return
		}
	}
}

// elsewhere reports whether any rendezvous names another process as the peer's.
func (cfg Config) elsewhere(ctx context.Context, process [processBytes]byte) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*watchFor)
	defer cancel()
	found := make(chan bool, len(cfg.Signals))
	for _, url := range cfg.Signals {
		go func() {
			door, err := (&signal.Client{URL: url}).KeyDoor(cfg.Peer)
			if err != nil {
				found <- false
				return
			}
			defer door.Close()
			c, err := door.Challenge(ctx, 0)
			found <- err == nil && [processBytes]byte(c[:]) != process
		}()
	}
	other := false
	for range cfg.Signals {
		other = <-found || other
	}
	return other
}

// lost reports whether nothing has been heard of the peer for a while.
func (s *Session) lost() bool {
	s.end.mu.Lock()
	defer s.end.mu.Unlock()
	return s.end.interrupted
}

// Name returns what this side calls the peer; empty if it has no name for it.
func (s *Session) Name() string { return s.name }

// Key returns the peer's public key, proved to be its own, and whether it is one that the peer keeps, to be
// known by later.
func (s *Session) Key() (key [32]byte, kept bool) { return s.key, s.kept }

// gone is the reason of a session that this side has ended because the peer's process is not there any more; nil of others.
func (s *Session) gone() error {
	if why := s.end.died.Load(); why != nil && errors.Is(s.link.Err(), link.ErrClosed) {
		return why
	}
	return nil
}

func errRestarted() *Error {
	return failf(ClassGone, "start this side again too", ErrRestarted, "the peer was started again, and knows nothing of this session")
}
