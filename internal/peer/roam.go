package peer

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"adit/internal/handshake"
	"adit/internal/link"
	"adit/internal/punch"
	"adit/signal"
)

const (
	// relayGrace is how long a direct path that fell silent may come back after the link became
	// suspicious, before a relay that answers takes over.
	relayGrace = 1200 * time.Millisecond

	// calm is how long a path must work before the search for another one ends altogether.
	calm = 3 * time.Second

	byeFor = 2 * time.Second // the end of a session waits for its last letter

	retryLeast = time.Second
	retryMost  = 15 * time.Second

	// On a relay the direct addresses known last are probed so often and for so long, and a new generation
	// is tried after the first time, then after twice that, and so on.
	directEvery    = 4 * time.Second
	directProbe    = 400 * time.Millisecond
	directSearch   = 30 * time.Second
	directSearches = 10 * time.Minute

	// allocateAgain is how long to wait, without a path, before relays are asked for an address again, and
	// renewAgain before the rendezvous is asked for other relays.
	allocateAgain = 10 * time.Second
	renewAgain    = 2 * time.Second

	mostOffers = 8 // of the peer that wait to be looked at; more are dropped
)

// A roamer keeps a session's path: it looks for another one when the link falls silent or the network
// changes, and for a direct one while a relay carries it. docs/protocol.md draws what it does. One
// goroutine owns it.
type roamer struct {
	e       *endpoint
	letters *letters // nil without a rendezvous
	client  *signal.Client
	carryID [16]byte
	wake    chan struct{} // capacity 1

	mu      sync.Mutex // guards what the others bring
	state   link.State
	network bool // it changed
	offers  []offer
	moved   bool
	rekeys  [][]byte
	turned  bool // the peer seals with fresh keys
	look    bool // for letters, whatever the link's state
	pasted  []offer
	answers netip.AddrPort // an address of the peer's line; invalid: none

	// Owned by run.
	now         time.Time
	was         link.State
	rekey       *rekeyer
	stone       *tombstone // nil if there is none
	paste       *repaste   // nil if people cannot be asked
	vigil       vigil
	refusals    *punch.Refusals // nil while no vigil is kept
	begun       bool            // the first path is noted
	gen         *generation
	left        bool // the peer is gone, and said so by letter
	number      uint32
	seen        [16]byte // seed of the peer's last half
	backoff     time.Duration
	retryAt     time.Time // zero: none
	calmAt      time.Time // zero: the post is not open
	relayAt     time.Time
	relay       *relayResult
	works       <-chan relayResult
	relaying    context.Context    // of that search
	stopRelay   context.CancelFunc // not nil while relays are probed
	directAt    time.Time          // zero: the path is direct
	searchAt    time.Time
	searches    time.Duration
	allocatedAt time.Time          // when relays were last asked for an address
	renewAt     time.Time          // not before
	out         chan letter        // capacity 1: a letter to leave
	stopPost    context.CancelFunc // not nil while the post is open
}

func newRoamer(e *endpoint, client *signal.Client, keys *handshake.Result) *roamer {
	r := &roamer{e: e, client: client, carryID: carryID(keys), wake: make(chan struct{}, 1), out: make(chan letter, 1)}
	if client != nil {
		r.letters = newLetters(client, keys, e.controlling)
	}
	seals := r.letters
	if client == nil {
		if r.paste = newRepaste(e.cfg, keys, e.controlling); r.paste != nil {
			seals = r.paste.seals
		}
	}
	r.rekey = newRekeyer(e.link, seals, keys, e.cfg.Logger)
	return r
}

// wakeRoamer makes the roamer look around, if there is one.
func (e *endpoint) wakeRoamer() {
	e.mu.Lock()
	r := e.roamer
	e.mu.Unlock()
	if r != nil {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// tell hands something to the roamer.
func (e *endpoint) tell(f func(*roamer)) {
	e.mu.Lock()
	r := e.roamer
	e.mu.Unlock()
	if r == nil {
		return
	}
	r.mu.Lock()
	f(r)
	r.mu.Unlock()
	e.wakeRoamer()
}

func (e *endpoint) offered(o offer) {
	e.tell(func(r *roamer) {
		if len(r.offers) < mostOffers {
			r.offers = append(r.offers, o)
		}
	})
}

// run works until the link ends.
func (r *roamer) run() {
	if r.letters != nil {
		r.stone = r.e.cfg.Tombstones.raise(r.e.cfg.Logger)
		r.bequeath()
		defer r.stone.remove()
	}
	defer r.sayBye()
	defer r.closePost()
	defer r.endGeneration()
	defer r.endRelays()
	defer r.endVigil()
	defer r.paste.close()
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		r.now = time.Now()
		r.step()
		t.Reset(r.sleep())
		select {
		case <-r.wake:
		case <-t.C:
		case w := <-r.works:
			r.relay, r.works = &w, nil
		case from := <-r.e.chosen:
			r.e.link.Use(from)
		case <-r.e.link.Done():
			return
		}
	}
}

// step takes in what happened and does what is due.
func (r *roamer) step() {
	r.mu.Lock()
	state, network, moved, look, offers, rekeys, turned := r.state, r.network, r.moved, r.look, r.offers, r.rekeys, r.turned
	r.network, r.moved, r.look, r.offers, r.rekeys, r.turned = false, false, false, nil, nil, false
	pasted, answers := r.pasted, r.answers
	r.pasted, r.answers = nil, netip.AddrPort{}
	r.mu.Unlock()
	if turned {
		r.rekey.turned(r.now)
	}
	for _, b := range rekeys {
		r.rekey.heed(r.now, b)
	}
	if turned || len(rekeys) > 0 {
		r.bequeath()
	}
	if network {
		r.endVigil() // somebody else may have the peer's address here
		r.e.link.Nudge()
		r.e.forgetNetwork()
		r.closePost() // its connections are of the old network
		r.reallocate()
		r.e.redialCarried()
		r.backoff = 0
		r.begin(r.number + 1)
	}
	if moved {
		r.endVigil()
		r.followPath()
		if r.begun {
			r.rekey.want()
		}
	}
	r.begun = true
	if look {
		r.openPost()
	}
	r.enter(state)
	for _, o := range offers {
		r.heed(o)
	}
	for _, o := range pasted {
		r.heedPasted(o)
	}
	if answers.IsValid() && state != link.Up {
		r.e.link.Use(answers)
	}
	r.pasteStep(state)
	r.generationStep(state)
	r.relayStep(state)
	r.directStep(state)
	r.rekey.step(r.now, state == link.Up)
	r.vigilStep(state)
	if r.stopPost != nil && state != link.Up && r.e.relayRefused() && !r.now.Before(r.renewAt) {
		r.renewAt = r.now.Add(renewAgain)
		r.renew()
	}
	if state == link.Up && r.gen == nil && !r.calmAt.IsZero() && r.now.After(r.calmAt.Add(calm)) {
		r.closePost()
	}
}

// enter does what a new state of the link asks for.
func (r *roamer) enter(s link.State) {
	if s == r.was {
		return
	}
	was := r.was
	r.was = s
	switch s {
	case link.Suspect:
		if was == link.Up {
			r.beginVigil()
		}
		r.openPost()
		r.relayAt = r.now.Add(relayGrace)
		r.probeRelays()
	case link.Interrupted:
		r.paste.interrupted(r.now)
		if was == link.Up {
			r.beginVigil()
			r.openPost()
			r.probeRelays()
		}
		r.reallocate() // the server may have been restarted, or be gone
		r.e.base.renewMapping()
		if r.client != nil && !r.e.carries() {
			r.e.carryVia(r.relaying, r.client, r.carryID)
		}
		if r.gen == nil {
			r.begin(r.number + 1)
		}
	case link.Up:
		r.paste.up()
		r.calmAt = r.now
		r.backoff, r.retryAt = 0, time.Time{}
		r.endRelays()
		if r.gen != nil && r.gen.answered.IsZero() {
			r.endGeneration() // the path is back before the peer took part
		}
		r.followPath()
	}
}

// begin starts a generation in the place of the one before.
func (r *roamer) begin(number uint32) {
	r.endGeneration()
	r.number = number
	r.retryAt = time.Time{}
	r.openPost()
	r.gen = r.e.generate(number, r.paste.asking())
	r.e.cfg.Logger.Info("looking for another path", "generation", number)
}

func (r *roamer) endGeneration() {
	if r.gen != nil {
		r.gen.cancel()
		r.gen = nil
		if r.e.link.Err() == nil && r.was == link.Up {
			r.e.base.stopRefresh() // the link keeps its own mapping
		}
	}
}

// generationStep tells the peer about this side's half, and takes what a search has found.
func (r *roamer) generationStep(s link.State) {
	if r.gen == nil {
		if !r.retryAt.IsZero() && !r.now.Before(r.retryAt) {
			if r.retryAt = (time.Time{}); s != link.Up {
				if s == link.Interrupted && r.now.Sub(r.allocatedAt) > allocateAgain {
					r.reallocate()
				}
				r.begin(r.number + 1)
			}
		}
		if r.gen == nil {
			return
		}
	}
	g := r.gen
	select {
	case <-g.changed:
		r.publish(g.offer(), s)
	default:
	}
	var done result
	select {
	case done = <-g.ended:
	default:
		if g.answered.IsZero() && r.now.Sub(g.began) > g.unansweredFor() {
			done.err = errors.New("the peer did not answer")
			break
		}
		if r.e.cfg.Path == PathRelay && !g.answered.IsZero() && (s == link.Up || r.now.Sub(g.answered) > answeredFor) {
			done.err = errors.New("relays only")
			break
		}
		return
	}
	if done.err == nil {
		r.e.link.Use(done.path.pair.Remote.Addr)
		r.e.tellUp(done.path)
		r.rekey.want()
		r.gen = nil // its agent lingers
		g.cancel()
		r.e.base.stopRefresh()
		r.calmAt, r.backoff = r.now, 0
		return
	}
	r.e.cfg.Logger.Info("no other path yet", "generation", g.number, "err", done.err)
	r.endGeneration()
	r.calmAt = r.now
	r.backoff = min(max(2*r.backoff, retryLeast), retryMost)
	r.retryAt = r.now.Add(r.backoff*3/4 + rand.N(r.backoff/4))
}

// publish tells the peer: over the link if that may work, and by the mailbox.
func (r *roamer) publish(o offer, s link.State) {
	r.e.cfg.Logger.Debug("this side's half", "generation", o.number, "candidates", o.d.Candidates)
	if s != link.Interrupted {
		if err := r.e.link.SendControl(o.append(nil)); err != nil {
			r.e.cfg.Logger.Debug("offer not sent over the link", "err", err)
		}
	}
	if r.letters == nil {
		return
	}
	b := r.letters.seal(o)
	select {
	case <-r.out: // an older one
	default:
	}
	r.out <- b
}

// openPost begins to leave and fetch letters.
func (r *roamer) openPost() {
	r.calmAt = r.now
	if r.letters == nil || r.stopPost != nil {
		return
	}
	ctx, cancel := context.WithCancel(r.e.ctx)
	done := make(chan struct{})
	out := r.out
	go func() {
		defer close(done)
		r.letters.post(ctx, r.e, out, r.e.offered)
	}()
	r.stopPost = func() {
		cancel()
		<-done
	}
}

// renew asks the mailbox for other relays, in the background.
func (r *roamer) renew() {
	box, err := r.letters.client.Mailbox(r.letters.id, r.letters.side)
	if err != nil {
		return // it is no URL; the meeting would not have succeeded
	}
	r.e.wg.Go(func() {
		defer box.Close()
		ctx, cancel := context.WithTimeout(r.e.ctx, allocateFor)
		defer cancel()
		r.e.renew(ctx, box)
	})
}

func (r *roamer) reallocate() {
	r.allocatedAt = r.now
	r.e.reallocate()
}

func (r *roamer) closePost() {
	r.calmAt = time.Time{}
	if r.stopPost != nil {
		r.stopPost()
		r.stopPost = nil
	}
}

// sleep is how long nothing is due.
func (r *roamer) sleep() time.Duration {
	at := r.now.Add(time.Hour)
	soonest := func(t time.Time) {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	soonest(r.retryAt)
	if r.stopPost != nil && r.was != link.Up && r.e.relayRefused() {
		soonest(r.renewAt)
	}
	switch {
	case r.gen != nil && r.gen.answered.IsZero():
		soonest(r.gen.began.Add(r.gen.unansweredFor()))
	case r.gen != nil && r.e.cfg.Path == PathRelay:
		soonest(r.gen.answered.Add(answeredFor))
	case r.gen == nil && r.was == link.Up && !r.calmAt.IsZero():
		soonest(r.calmAt.Add(calm))
	}
	if r.was == link.Up {
		soonest(r.rekey.at())
	}
	if r.refusals != nil {
		soonest(r.now.Add(goneEvery))
	}
	if r.paste != nil {
		soonest(r.paste.at)
		if r.gen != nil && r.gen.line && !r.gen.shown {
			soonest(r.gen.began.Add(repasteGather))
		}
	}
	if r.was == link.Up && !r.directAt.IsZero() {
		soonest(r.directAt)
		if r.gen == nil {
			soonest(r.searchAt)
		}
	}
	if r.relay != nil && r.now.Before(r.relayAt) {
		soonest(r.relayAt)
	}
	return max(at.Sub(r.now), 0) + time.Millisecond
}
