package peer

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"adit/internal/event"
	"adit/internal/link"
	"adit/internal/punch"
	"adit/signal"
)

// Control messages of the link begin with what they are.
const (
	controlReveal = 1 // what opens the commitment in a pasted offer
	controlPath   = 2 // nothing more: the controlling side has chosen the path that this came over
	controlOffer  = 4 // an offer: half of another generation
	controlBye    = 5 // in letters only: its sender has closed the session while there was no path
	controlNAT    = 3 // a description that says what its sender sees of its NAT now

	controlRekey   = 6 // number u32, then the first message of a rekeying, see rekeyer
	controlRekeyed = 7 // number u32, then the second

	controlDied = 8 // in letters only: its sender's process has died, see Tombstones
)

// A peer whose network changes makes an offer, and again with more candidates: so many at once, and a second, are more
// than twenty changes in two minutes make.
const (
	offerBurst = 100
	offerRate  = 2
)

// control takes in a control message of the peer.
func (e *endpoint) control(b []byte, from netip.AddrPort) {
	switch {
	case len(b) > 1 && b[0] == controlReveal:
		select {
		case e.revealed <- slices.Clone(b[1:]):
		default: // a second one says nothing new
		}
	case len(b) == 1 && b[0] == controlPath && !e.controlling:
		select {
		case e.chosen <- from:
		default:
		}
	case len(b) > 0 && b[0] == controlOffer:
		if !e.offers.Allow() {
			why := failf(ClassGone, "the other side is not to be trusted, or is broken", link.ErrFlood, "the session was ended: the other side sends a flood of offers")
			if e.died.CompareAndSwap(nil, why) {
				e.mu.Lock()
				l := e.link
				e.mu.Unlock()
				go l.Close(closeBroken + "a flood of offers") // a callback of the link's must not wait for it
			}
			return
		}
		if o, err := parseOffer(b); err == nil {
			e.offered(o)
		}
	case len(b) == rekeyBytes && (b[0] == controlRekey || b[0] == controlRekeyed):
		e.rekeying(b)
	case len(b) > 1 && b[0] == controlNAT:
		if d, err := signal.ParseDescription(b[1:]); err == nil {
			e.nat.hear(d.NAT)
		}
	}
}

// A path is what connect found.
type path struct {
	pair      punch.Pair
	rtt       time.Duration
	transport string // of a relayed path: udp, tcp or tls to this side's relay, https for the rendezvous; empty if direct
}

// up is the event that tells of it.
func (p path) up() event.Event {
	e := event.Event{
		Name: event.Up, Path: "direct",
		Local: p.pair.Local.String(), Remote: p.pair.Remote.String(),
		RTT: float64(p.rtt.Microseconds()) / 1000,
	}
	if !p.pair.Local.Addr.IsValid() {
		e.Local = "" // there was no way to the peer a moment ago
	}
	if p.transport != "" {
		e.Path = "relay"
		e.Transport = p.transport
	}
	if p.transport == "https" {
		e.Local, e.Remote = "rendezvous", "rendezvous"
	}
	return e
}

// connect returns when there is a path: when a sealed probe came back over the pair that ICE selected
// or, if that takes more than relayAfter, through a relay. The controlling side chooses the relay. The
// search for a direct path then goes on, and the link moves to it in place.
//
//	controlling                                      controlled
//	ICE, sealed probe ── direct ──> Use, up          ICE, sealed probe ── direct ──> Use, up
//	sealed probes through relays ── one answers      sealed probes through relays: they open the way
//	  after a second: Use, controlPath ────────────> Use of where it came from, up
func (e *endpoint) connect(ctx context.Context, limit time.Duration) (path, error) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, errChecked)
		defer cancel()
	}
	search, enough := context.WithCancel(ctx)
	defer enough()
	works := e.probeRelays(search)

	// The direct search outlives this call if a relay is taken meanwhile.
	var direct chan result
	dctx, giveUp := context.WithCancelCause(e.ctx)
	follow := context.AfterFunc(ctx, func() { giveUp(context.Cause(ctx)) })
	wait := e.relayWait()
	if e.cfg.Path == PathRelay {
		wait = 0
		close(e.searched)
	} else {
		direct = make(chan result, 1)
		e.wg.Go(func() {
			defer close(e.searched)
			direct <- e.connectDirect(dctx)
		})
	}
	ready := time.NewTimer(wait)
	defer ready.Stop()
	hope, began := time.NewTicker(relayHopeFor/10), time.Now()
	defer hope.Stop()
	chosen, patient := e.chosen, true
	if e.controlling {
		chosen = nil
	}
	var relay *relayResult
	var failed error
	for {
		if relay != nil && (!patient || failed != nil) {
			e.link.Use(relay.to)
			if err := e.link.SendControl([]byte{controlPath}); err != nil {
				giveUp(err)
				return path{}, err
			}
			return e.afterRelay(*relay, direct, failed, follow, giveUp), nil
		}
		select {
		case r := <-direct:
			direct = nil
			if r.err == nil {
				giveUp(nil)
				e.link.Use(r.path.pair.Remote.Addr)
				return r.path, nil
			}
			if failed = r.err; !e.relayHope() {
				giveUp(nil)
				return path{}, e.reason(ctx, limit, failed)
			}
		case r := <-works:
			if e.controlling {
				relay = &r
			}
		case from := <-chosen:
			e.link.Use(from)
			return e.afterRelay(relayResult{from, e.link.RTT()}, direct, failed, follow, giveUp), nil
		case <-ready.C:
			patient = false
		case <-hope.C:
			if direct == nil && time.Since(began) >= relayHopeFor && !e.relayHope() {
				giveUp(nil)
				return path{}, e.reason(ctx, limit, failed)
			}
		case <-ctx.Done():
			giveUp(context.Cause(ctx))
			if direct != nil {
				r := <-direct // it says what was tried
				failed = r.err
			}
			return path{}, e.reason(ctx, limit, failed)
		}
	}
}

type result struct {
	path path
	err  error
}

// connectDirect waits for ICE, and for a sealed probe over what it selected.
func (e *endpoint) connectDirect(ctx context.Context) result {
	e.mu.Lock()
	agent := e.agent
	e.mu.Unlock()
	if agent == nil {
		return result{err: net.ErrClosed}
	}
	checks, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	connected, enough := context.WithCancel(ctx)
	defer enough()
	e.wg.Go(func() {
		if e.beyondICE(connected, agent) == errHopeless {
			giveUp(errHopeless)
		}
	})
	pair, err := agent.Connect(checks)
	enough()
	if err != nil {
		return result{err: err}
	}
	rtt, err := e.link.Probe(ctx, pair.Remote.Addr)
	if err != nil {
		if end := e.link.Err(); end != nil && !errors.Is(end, net.ErrClosed) {
			err = end
		}
		return result{err: failf(ClassNoPath, "look for a firewall between the two that lets STUN pass and nothing else", err, "no path: ICE chose %v, and no sealed probe came back over it", pair.Remote)}
	}
	return result{path: path{pair: pair, rtt: rtt}}
}

// reason makes the error of connect: ctx's cause if that ended for a reason of its own.
func (e *endpoint) reason(ctx context.Context, limit time.Duration, failed error) error {
	var told *Error
	switch {
	case stopped(ctx, limit):
		return context.Cause(ctx)
	case errors.As(failed, &told):
		return told
	}
	e.base.renewMapping() // the next attempt may need it
	return e.noPath(failed)
}

// afterRelay describes a relayed path and leaves the direct search to itself, for as long as checks may
// take. When it finds something the link moves over. failed is why the search has ended, if it has.
func (e *endpoint) afterRelay(r relayResult, direct <-chan result, failed error, follow func() bool, giveUp context.CancelCauseFunc) path {
	follow()
	p := path{rtt: r.rtt}
	p.pair, p.transport = e.relayPair(r.to)
	if direct == nil {
		giveUp(nil)
		if failed != nil {
			e.base.renewMapping()
			e.stays(failed)
		}
		return p
	}
	e.wg.Go(func() {
		t := time.AfterFunc(checkFor, func() { giveUp(errChecked) })
		defer t.Stop()
		defer giveUp(nil)
		d := <-direct
		if d.err != nil {
			e.base.renewMapping()
			e.stays(d.err)
			return
		}
		e.link.Use(d.path.pair.Remote.Addr)
		e.cfg.Logger.Info("moved from the relay to a direct path", "remote", d.path.pair.Remote)
		e.tellUp(d.path)
	})
	return p
}

// tellUp tells of a path, if that is news: another one than before, or after an interruption.
func (e *endpoint) tellUp(p path) {
	up := p.up()
	to := e.link.Remote()
	e.mu.Lock()
	known := e.told == to && e.up.Path == up.Path
	e.up, e.told = up, to
	e.mu.Unlock()
	if !known {
		e.remember(p)
		e.cfg.Events.Emit(up)
	}
}

// pathTo describes the path to an address that the link sends to.
func (e *endpoint) pathTo(to netip.AddrPort) path {
	p := path{rtt: e.link.RTT()}
	p.pair, p.transport = e.relayPair(to)
	if !e.viaRelay(to) {
		p.transport = ""
	}
	return p
}

// viaRelay reports whether packets to an address go through a relay of either side.
func (e *endpoint) viaRelay(to netip.AddrPort) bool {
	if relayed(to) {
		return true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.relays.peers, func(c signal.Candidate) bool {
		return c.Type == signal.CandidateType(punch.Relay) && c.Addr == to
	})
}

// stopped reports whether ctx ended for another reason than the limit on connectivity checks.
func stopped(ctx context.Context, limit time.Duration) bool {
	return ctx.Err() != nil && !(limit > 0 && errors.Is(context.Cause(ctx), errChecked))
}
