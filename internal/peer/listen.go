package peer

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/event"
	"adit/internal/handshake"
	"adit/internal/link"
	"adit/internal/netmon"
	"adit/signal"
)

const (
	// rotateEvery is how long a challenge is the newest one; it stays open for as long again.
	rotateEvery = 2 * time.Minute

	// claimLeast and claimMost bound the wait before a rendezvous that is away is tried again.
	claimLeast = 100 * time.Millisecond
	claimMost  = 5 * time.Second

	// costShare is how much longer the next look at offers waits than the useless ones of the last took: what
	// strangers can cost is one part in so many of a processor.
	costShare = 30
	costLeast = 50 * time.Millisecond
	costMost  = time.Second
)

// ErrListening says that the same key listens somewhere else since.
var ErrListening = errors.New("another process listens with this key")

// A Listener is met by peers that know its key. It has one pair of sockets for all of its sessions, each of which
// is by itself. Its methods may be called from any goroutine.
type Listener struct {
	cfg    Config
	static *handshake.KeyPair
	guard  *handshake.Guard
	fresh  *fresh
	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	accepting chan *Session // unbuffered
	counts    counts
	roster    roster

	mu   sync.Mutex
	base *base // nil until the first peer or code
	stun []string
}

// counts are what became of offers.
type counts struct {
	offers, opened, strangers, replays, garbage, busy atomic.Uint64
}

// ListenStats counts what came to a Listener's mailboxes.
type ListenStats struct {
	Offers    uint64 // in all
	Opened    uint64 // of peers that are on the list
	Strangers uint64 // of keys that are not
	Replays   uint64 // that were there before, or are old
	Garbage   uint64 // that nobody made for this key
	Busy      uint64 // of peers that have too many sessions already
}

// Listen waits at the rendezvous of cfg.Signals, all of them, for peers that cfg.Admit knows, and with cfg.Codes
// for those who are given a code as well. It returns at once: a rendezvous that cannot be reached, or a
// network that is not there yet, is tried until it is. What happens is reported to cfg.Events. The caller
// closes the Listener.
func Listen(cfg Config) (*Listener, error) {
	if cfg.Logger == nil {
		cfg.Logger = discard
	}
	if cfg.Admit == nil || len(cfg.Signals) == 0 {
		return nil, failf(ClassOther, "name a rendezvous with --signal", nil, "nobody can be met by key without a rendezvous and a list of peers")
	}
	l := &Listener{
		cfg: cfg, static: handshake.KeyPairFrom(cfg.Key), guard: handshake.NewGuard(), fresh: newFresh(),
		accepting: make(chan *Session), roster: newRoster(), stun: cfg.STUN,
	}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	var boxes []*signal.KeyBox
	for _, url := range cfg.Signals {
		box, err := (&signal.Client{URL: url}).KeyBox(cfg.Key, l.static.Public)
		if err != nil {
			l.cancel(nil)
			return nil, failf(ClassSignal, "check --signal", err, "%v", err)
		}
		boxes = append(boxes, box)
	}
	replaced := make(chan struct{}, len(boxes)) // of those whose mailbox another has
	for i, box := range boxes {
		l.wg.Go(func() {
			defer box.Close()
			l.attend(cfg.Signals[i], box, replaced)
		})
	}
	l.wg.Go(func() {
		for range boxes {
			select {
			case <-replaced:
			case <-l.ctx.Done():
				return
			}
		}
		l.cancel(failf(ClassAuth, "let only one process listen with a key: stop the other, or give this machine a key of its own", ErrListening, "another process listens with this key since"))
	})
	l.wg.Go(l.rotate)
	l.wg.Go(func() { cfg.Tombstones.Bury(l.ctx, cfg.Logger) })
	l.wg.Go(func() {
		monitor := netmon.Open(l.cfg.Logger, func(netmon.Event) { l.fresh.changed() })
		<-l.ctx.Done()
		monitor.Close()
	})
	if cfg.Codes {
		l.wg.Go(l.offerCodes)
	}
	return l, nil
}

// Accept returns the next session whose path is up. It fails with ctx's cause, or when the Listener has ended:
// with an *Error if another process listens with the same key, with net.ErrClosed after Close.
func (l *Listener) Accept(ctx context.Context) (*Session, error) {
	select {
	case s := <-l.accepting:
		return s, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-l.ctx.Done():
		return nil, context.Cause(l.ctx)
	}
}

// Stats returns what came so far.
func (l *Listener) Stats() ListenStats {
	c := &l.counts
	return ListenStats{c.offers.Load(), c.opened.Load(), c.strangers.Load(), c.replays.Load(), c.garbage.Load(), c.busy.Load()}
}

// Close ends the waiting, and returns when nothing of it is left. Sessions that were accepted go on.
func (l *Listener) Close() error {
	l.cancel(link.ErrClosed)
	l.wg.Wait()
	n := l.Stats()
	l.cfg.Logger.Info("offers", "all", n.Offers, "opened", n.Opened, "strangers", n.Strangers, "replays", n.Replays, "garbage", n.Garbage, "busy", n.Busy)
	l.mu.Lock()
	b := l.base
	l.base = nil
	l.mu.Unlock()
	if b != nil {
		return b.release()
	}
	return nil
}

// rotate makes a new challenge now and then.
func (l *Listener) rotate() {
	t := time.NewTicker(rotateEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			l.guard.Rotate()
		case <-l.ctx.Done():
			return
		}
	}
}

// attend listens at one rendezvous until the Listener ends, or another has its place.
func (l *Listener) attend(url string, box *signal.KeyBox, replaced chan<- struct{}) {
	var wait backoff
	there := false
	for l.ctx.Err() == nil {
		err := l.claim(url, box)
		if err == nil {
			if !there {
				l.cfg.Events.Emit(event.Event{Name: event.Reachable, Addr: signal.PublicURL(url)})
			}
			there, wait = true, backoff{}
			err = l.poll(url, box)
		}
		switch {
		case l.ctx.Err() != nil:
			return
		case errors.Is(err, signal.ErrReplaced):
			l.cfg.Events.Emit(event.Event{Name: event.Unreachable, Addr: signal.PublicURL(url), Message: "another process listens with this key since"})
			replaced <- struct{}{}
			return
		case errors.Is(err, signal.ErrUnclaimed):
			continue // the rendezvous was started again
		}
		l.cfg.Logger.Debug("rendezvous not reached", "url", signal.PublicURL(url), "err", err) // again and again; an event tells the first
		if there || wait.tries == 0 {
			l.cfg.Events.Emit(unreachable(url, err))
		}
		there = false
		if !sleep(l.ctx, max(wait.next(), signal.RetryAfter(err))) {
			return
		}
	}
}

// claim makes this side the listener at a rendezvous, and asks that for STUN servers if nobody named any.
func (l *Listener) claim(url string, box *signal.KeyBox) error {
	if err := box.Claim(l.ctx); err != nil {
		return err
	}
	if l.cfg.STUN != nil {
		return nil
	}
	client := &signal.Client{URL: url}
	defer client.CloseIdle()
	ice, err := client.ICE(l.ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	all := slices.Clone(l.stun)
	for _, s := range ice.STUN {
		if !slices.Contains(all, s) && len(all) < 8 {
			all = append(all, s)
		}
	}
	if len(all) > len(l.stun) && l.base != nil {
		l.base.setSTUN(all)
	}
	l.stun = all
	return nil
}

// poll takes offers in until that fails.
func (l *Listener) poll(url string, box *signal.KeyBox) error {
	var wait backoff
	for {
		began := time.Now()
		ctx, done := l.fresh.with(l.ctx)
		offers, err := box.Poll(ctx, l.guard.Challenge())
		done()
		if err != nil {
			// One failure is no reason to claim the mailbox again, which ends what waits there.
			if errors.Is(err, signal.ErrReplaced) || errors.Is(err, signal.ErrUnclaimed) || l.ctx.Err() != nil || wait.tries > 4 {
				return err
			}
			l.cfg.Logger.Info("poll failed", "url", signal.PublicURL(url), "err", err)
			if !sleep(l.ctx, wait.next()) {
				return context.Cause(l.ctx)
			}
			continue
		}
		wait = backoff{}
		useless := time.Duration(0)
		for _, o := range offers {
			at := time.Now()
			if !l.consider(url, box, o) {
				useless += time.Since(at)
			}
		}
		pause := time.Duration(0)
		switch {
		case useless > 0:
			pause = min(max(costShare*useless, costLeast), costMost)
		case len(offers) == 0 && time.Since(began) < time.Second:
			pause = claimLeast // something in between answers for the rendezvous, and at once
		}
		if !sleep(l.ctx, pause) {
			return context.Cause(l.ctx)
		}
	}
}

// consider opens an offer and, if it comes from a peer on the list, begins to meet. Until then it costs one
// X25519 and two look-ups.
func (l *Listener) consider(url string, box *signal.KeyBox, o signal.KeyOffer) bool {
	l.counts.offers.Add(1)
	var name string
	noise, err := handshake.NewResponder(handshake.Config{
		Mode: handshake.ModeKey, Static: l.static, Guard: l.guard,
		Allow: func(key [32]byte) bool {
			var ok bool
			name, ok = l.cfg.Admit(key)
			return ok
		},
	})
	if err != nil {
		l.cfg.Logger.Info("no offer can be opened", "err", err)
		return false
	}
	payload, err := noise.Open(o.Message.Body)
	switch {
	case errors.Is(err, handshake.ErrStranger):
		l.counts.strangers.Add(1)
		return false
	case errors.Is(err, handshake.ErrReplay):
		l.counts.replays.Add(1)
		return false
	case err != nil:
		l.counts.garbage.Add(1)
		return false
	}
	remote, err := signal.ParseDescription(payload)
	if err != nil {
		l.counts.garbage.Add(1)
		return false
	}
	l.counts.opened.Add(1)
	key := noise.Peer()
	lost, ok := l.roster.begin(key)
	if lost != nil {
		l.wg.Go(func() { lost.link.Close("another session took its place") })
	}
	if !ok {
		l.counts.busy.Add(1)
		l.cfg.Logger.Info("a peer has too many sessions", "peer", name)
		return true
	}
	settled := make(chan struct{})
	l.wg.Go(func() {
		defer close(settled)
		settle(l.ctx, l.roster.of(key))
	})
	l.wg.Go(func() {
		s, err := l.meet(url, box, o, noise, remote, name)
		l.roster.end(key, s)
		if err != nil {
			l.cfg.Logger.Info("no session", "peer", name, "err", err)
			return
		}
		<-settled // what an old session of a peer that was started again holds is free then
		l.hand(s)
	})
	return true
}

// hand gives a session to who accepts it. One that nobody takes before the Listener ends is closed.
func (l *Listener) hand(s *Session) {
	select {
	case l.accepting <- s:
	case <-s.link.Done():
		s.Close()
	case <-l.ctx.Done():
		s.Close()
	}
}

// sockets returns the base of all sessions, with a use of it for the caller.
func (l *Listener) sockets() (*base, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.base == nil {
		b, err := newBase(l.cfg, l.stun)
		if err != nil {
			return nil, err
		}
		l.base = b
	}
	return l.base.use(), nil
}

// of returns the configuration of one session.
func (l *Listener) of(name string, b *base) Config {
	cfg := l.cfg
	cfg.base = b
	cfg.Events = named(cfg.Events, name)
	if cfg.TargetsOf != nil {
		cfg.Targets = cfg.TargetsOf(name)
	}
	return cfg
}

// named puts a peer's name on every event.
func named(sink event.Sink, name string) event.Sink {
	return func(e event.Event) {
		e.Peer = name
		sink.Emit(e)
	}
}

// meet answers an offer and brings the path up.
func (l *Listener) meet(url string, box *signal.KeyBox, o signal.KeyOffer, noise *handshake.Responder, remote signal.Description, name string) (_ *Session, err error) {
	ctx, cancel := context.WithTimeoutCause(l.ctx, meetLimit(l.cfg), errChecked)
	defer cancel()
	b, err := l.sockets()
	if err != nil {
		return nil, err
	}
	defer b.release()
	cfg := l.of(name, b)
	cfg.Timeout, cfg.Who = 0, who(noise.Peer())
	end, err := open(cfg, nil)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			end.Close()
		}
	}()
	end.settleFor(ctx, offerWait)
	late := newLate()
	answer, keys, err := noise.Answer(marshal(end.description(late.add)))
	if err != nil {
		return nil, err
	}
	if err := end.check(remote, keys, false, false); err != nil {
		return nil, err
	}
	room, err := box.Accept(ctx, o, signal.Message{Kind: signal.KindAnswer, Expires: time.Now().Add(meetFor), Body: answer})
	if err != nil {
		return nil, err
	}
	defer room.Close()
	end.allocateFrom(room)
	s, err := finish(ctx, cfg, end, &signal.Client{URL: url}, room, remote, keys, false, late)
	if err != nil {
		return nil, err
	}
	s.name, s.key = name, keys.PeerStatic
	return s, nil
}

// meetLimit is how long a meeting may take once both sides know each other, gathering and relays included.
func meetLimit(cfg Config) time.Duration {
	if cfg.Timeout > 0 {
		return min(cfg.Timeout, 2*checkFor)
	}
	return checkFor + 5*time.Second
}

// offerCodes shows a code, and the next one when somebody has used it or its time is over.
func (l *Listener) offerCodes() {
	var wait backoff
	for l.ctx.Err() == nil {
		b, err := l.sockets()
		if err == nil {
			cfg := l.of("", b)
			cfg.Signal, cfg.Role, cfg.Timeout = l.cfg.Signals[0], Exposer, 0
			var s *Session
			s, err = createByCode(l.ctx, cfg)
			_ = b.release() // the endpoint has its own use
			if err == nil {
				wait = backoff{}
				l.wg.Go(func() { l.hand(s) })
				continue
			}
		}
		if l.ctx.Err() != nil {
			return
		}
		l.cfg.Logger.Info("the code came to nothing", "err", err)
		if !sleep(l.ctx, wait.next()) {
			return
		}
	}
}

// A backoff says how long to wait before the next try: longer each time, and not the same for all.
type backoff struct{ tries int }

func (b *backoff) next() time.Duration {
	d := min(claimLeast<<min(b.tries, 10), claimMost)
	b.tries++
	return d*3/4 + rand.N(d/2)
}
