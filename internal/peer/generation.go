package peer

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"adit/internal/punch"
	"adit/signal"
)

const (
	// answeredFor is how long checks may take once both sides know each other.
	answeredFor = 10 * time.Second

	// unansweredFor is how long a generation waits for the peer's half before there is a fresh one: the
	// addresses in it may be old.
	unansweredFor = 20 * time.Second

	// gatherAgain is how long to wait before servers that did not answer are asked again.
	gatherAgain = time.Second

	offerBytes = 1 + 4 // what stands in front of the description
)

// An offer is one side's half of a generation: what it calls itself in the checks, and where it is.
//
//	 0        1              5
//	+--------+--------------+----------------
//	| kind   | number u32   | description ...
//	+--------+--------------+----------------
type offer struct {
	kind   byte // controlOffer, controlBye or controlDied
	number uint32
	d      signal.Description
}

func (o offer) append(dst []byte) []byte {
	dst = append(dst, o.kind)
	dst = binary.BigEndian.AppendUint32(dst, o.number)
	if o.kind != controlOffer {
		return dst
	}
	return append(dst, marshal(o.d)...)
}

var errOffer = errors.New("no offer")

// parseOffer reads what append wrote.
func parseOffer(b []byte) (offer, error) {
	if len(b) < offerBytes {
		return offer{}, errOffer
	}
	o := offer{kind: b[0], number: binary.BigEndian.Uint32(b[1:])}
	switch o.kind {
	case controlBye, controlDied:
		if len(b) > offerBytes {
			return offer{}, errOffer
		}
		return o, nil
	case controlOffer:
		var err error
		o.d, err = signal.ParseDescription(b[offerBytes:])
		return o, err
	}
	return offer{}, errOffer
}

// A generation is one search for a direct path with an ICE agent of its own, beside whatever path there
// is. It takes two halves, one of each side, with the same number.
type generation struct {
	e      *endpoint
	number uint32
	seed   [16]byte
	line   bool // people carry the halves
	began  time.Time
	ctx    context.Context
	cancel context.CancelFunc

	remote  chan signal.Description // capacity 4: the peer's half, and again with more candidates
	changed chan struct{}           // capacity 1: there is more to tell the peer
	ended   chan result             // capacity 1: a path that works, or why there is none

	complete atomic.Bool // gathering has ended once

	// Owned by the roamer.
	answered time.Time // when the peer's half came; zero before
	shown    bool      // the line
	peerSeed [16]byte
}

// unansweredFor is how long the peer's half may take; then this side's may be old.
func (g *generation) unansweredFor() time.Duration {
	if g.line {
		return meetFor
	}
	return unansweredFor
}

// generate begins to gather; line says that people carry the halves. The caller ends it with cancel.
func (e *endpoint) generate(number uint32, line bool) *generation {
	g := &generation{
		e: e, number: number, line: line, began: time.Now(),
		remote: make(chan signal.Description, 4), changed: make(chan struct{}, 1), ended: make(chan result, 1),
	}
	rand.Read(g.seed[:])
	g.ctx, g.cancel = context.WithCancel(e.ctx)
	e.mu.Lock()
	e.onCand = func(punch.Candidate) { g.tell() }
	e.mu.Unlock()
	if e.cfg.Path == PathRelay {
		g.tell() // where its relays are is all that the peer may know
		return g
	}
	e.wg.Go(g.gather)
	e.wg.Go(func() {
		r := g.search()
		g.ended <- r
		e.wakeRoamer()
	})
	return g
}

// gather finds this side's addresses, and asks again until a server has answered: the network may have
// only begun to come back. What an earlier generation found is told until then.
func (g *generation) gather() {
	e := g.e
	e.mu.Lock()
	before := len(e.candidates)
	e.mu.Unlock()
	settled := time.AfterFunc(offerWait, g.tell)
	defer settled.Stop()
	for {
		answered := false
		err := e.base.gather(g.ctx, 0, func(c punch.Candidate) {
			if c.Type == punch.ServerReflexive && !answered {
				answered = true
				e.forget(before, c)
			}
			e.found(c)
		})
		if g.ctx.Err() != nil {
			return
		}
		if err != nil {
			e.cfg.Logger.Info("gathering ended early", "err", err)
		}
		g.complete.Store(true)
		g.tell()
		if answered || len(e.base.servers()) == 0 {
			e.nat.measured(e.base.nat(g.ctx))
			return
		}
		if !sleep(g.ctx, gatherAgain) {
			return
		}
	}
}

// forget drops those of the first n candidates that are as true as a NAT's mapping, now that its family
// has another one.
func (e *endpoint) forget(n int, now punch.Candidate) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := 0
	e.candidates = slices.DeleteFunc(e.candidates, func(c punch.Candidate) bool {
		i++
		return i <= n && c.Type == punch.ServerReflexive && c != e.mapped && c.Addr.Addr().Is4() == now.Addr.Addr().Is4()
	})
}

// tell says that there is news for the peer. Until the first addresses of STUN servers had their time
// there is none worth telling.
func (g *generation) tell() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
	g.e.wakeRoamer()
}

// offer is this side's half as it is now.
func (g *generation) offer() offer {
	g.e.mu.Lock()
	defer g.e.mu.Unlock()
	d := signal.Description{Index: g.e.index, Seed: g.seed, NAT: g.e.nat.told()}
	for _, c := range g.e.candidates {
		if s := toSignal(c); !slices.Contains(d.Candidates, s) && len(d.Candidates) < 24 {
			d.Candidates = append(d.Candidates, s)
		}
	}
	return offer{controlOffer, g.number, d}
}

// search waits for the peer's half, then for ICE, then for a sealed probe over what that selected. The
// agent goes on answering for a while, so that the peer's search can end too.
func (g *generation) search() result {
	e := g.e
	a, err := e.host.NewAgent(punch.AgentConfig{Local: punch.CredentialsFromSeed(g.seed), Controlling: e.controlling, Patient: g.line})
	if err != nil {
		return result{err: err}
	}
	linger := false
	defer func() {
		if !linger {
			a.Close()
			return
		}
		e.wg.Go(func() {
			sleep(e.ctx, agentLinger)
			a.Close()
		})
	}()
	var d signal.Description
	select {
	case d = <-g.remote:
	case <-g.ctx.Done():
		return result{err: context.Cause(g.ctx)}
	}
	if err := a.SetRemote(punch.CredentialsFromSeed(d.Seed)); err != nil {
		return result{err: err}
	}
	limit := answeredFor
	if g.line {
		limit = meetFor // the other half takes its time
	}
	ctx, cancel := context.WithTimeoutCause(g.ctx, limit, errChecked)
	defer cancel()
	add := func(d signal.Description) {
		for _, c := range d.Candidates {
			if c.Type == signal.CandidateType(punch.Relay) {
				continue
			}
			if err := a.AddRemote(toPunch(c)); err != nil {
				e.cfg.Logger.Debug("remote candidate refused", "candidate", c.Addr, "err", err)
			}
		}
	}
	add(d)
	e.wg.Go(func() {
		for {
			select {
			case d := <-g.remote:
				add(d)
			case <-ctx.Done():
				return
			}
		}
	})
	e.wg.Go(func() { e.beyondICE(ctx, a) })
	pair, err := a.Connect(ctx)
	if err != nil {
		return result{err: err}
	}
	rtt, err := e.link.Probe(ctx, pair.Remote.Addr)
	if err != nil {
		return result{err: err}
	}
	linger = true
	return result{path: path{pair: pair, rtt: rtt}}
}

// heed takes in an offer of the peer.
func (r *roamer) heed(o offer) {
	if o.kind == controlDied {
		r.e.cfg.Logger.Info("the peer's process has died, and another one there says so")
		r.endSession(errRestarted())
		return
	}
	if o.kind == controlBye {
		r.e.cfg.Logger.Info("the peer has closed the session while there was no path")
		r.left = true
		r.e.wg.Go(func() { r.e.link.Close("") })
		return
	}
	if o.d.Seed == r.seen && (r.gen == nil || o.number != r.gen.number) || o.number < r.number {
		return // an old one, or the same by another way
	}
	switch {
	case o.number > r.number:
		r.begin(o.number)
	case r.gen == nil:
		r.begin(r.number + 1) // the peer still looks for what was found or given up here
		return
	}
	r.take(o)
}

// take hands the peer's half to the generation that it belongs to.
func (r *roamer) take(o offer) {
	r.seen = o.d.Seed
	r.endVigil() // it lives
	g := r.gen
	if g.answered.IsZero() {
		g.answered, g.peerSeed = r.now, o.d.Seed
		r.e.nat.describe(o.d.NAT)
		r.e.forgetPeerRelays()
		r.e.forgetHosts()
	} else if g.peerSeed != o.d.Seed {
		return
	}
	r.e.cfg.Logger.Debug("the peer's half", "generation", o.number, "candidates", o.d.Candidates)
	r.e.nat.forgetPublic() // a half names all that the peer knows of itself now
	for _, c := range o.d.Candidates {
		r.e.nat.see(c)
		r.e.knowHost(c)
		r.e.relayCandidate(c)
	}
	select {
	case g.remote <- o.d:
	default: // four times is enough
	}
}
