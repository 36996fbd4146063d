package peer

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"adit/internal/link"
	"adit/internal/punch"
	"adit/signal"
)

// probeRelays tries the ways through relays that are known, and those that become known.
func (r *roamer) probeRelays() {
	r.endRelays()
	ctx, cancel := context.WithCancel(r.e.ctx)
	r.works, r.relaying, r.stopRelay = r.e.probeRelays(ctx), ctx, cancel
}

func (r *roamer) endRelays() {
	if r.stopRelay != nil {
		r.stopRelay()
		r.works, r.stopRelay, r.relay = nil, nil, nil
	}
}

// relayStep takes a relay that answers once the path had its time. The controlling side chooses; the
// other one helps itself when that is late.
func (r *roamer) relayStep(s link.State) {
	if r.relay == nil || s == link.Up || r.relay.to == r.e.link.Remote() {
		return
	}
	if r.now.Before(r.relayAt) || !r.e.controlling && s != link.Interrupted {
		return
	}
	r.e.link.Use(r.relay.to)
	r.relay = nil
	if r.e.controlling {
		if err := r.e.link.SendControl([]byte{controlPath}); err != nil {
			r.e.cfg.Logger.Debug("choice of the relay not sent", "err", err)
		}
	}
	r.e.link.Nudge()
}

// followPath takes note of where packets go now.
func (r *roamer) followPath() {
	to := r.e.link.Remote()
	r.e.tellUp(r.e.pathTo(to))
	if !r.e.viaRelay(to) {
		r.e.mu.Lock()
		r.e.direct = to
		r.e.mu.Unlock()
		r.directAt, r.searchAt, r.searches = time.Time{}, time.Time{}, 0
		return
	}
	if r.directAt.IsZero() && r.e.cfg.Path != PathRelay {
		r.searches = directSearch
		r.directAt, r.searchAt = r.now.Add(directEvery), r.now.Add(directSearch)
	}
}

// directStep looks for a direct path while a relay carries the session.
func (r *roamer) directStep(s link.State) {
	if r.directAt.IsZero() || s != link.Up {
		return
	}
	if !r.now.Before(r.directAt) {
		r.directAt = r.now.Add(directEvery)
		r.e.probeDirect()
	}
	if r.gen == nil && !r.now.Before(r.searchAt) {
		r.searches = min(2*r.searches, directSearches)
		r.searchAt = r.now.Add(r.searches)
		if r.e.controlling {
			r.begin(r.number + 1)
		}
	}
}

// probeDirect asks the address of the last direct path, and the public ones that the peer told last. Both
// sides do, so that each opens its NAT for the other.
func (e *endpoint) probeDirect() {
	e.mu.Lock()
	var to []netip.AddrPort
	if e.direct.IsValid() {
		to = append(to, e.direct)
	}
	for _, c := range e.relays.peers {
		if c.Type != signal.CandidateType(punch.Relay) && len(to) < 4 && !slices.Contains(to, c.Addr) {
			to = append(to, c.Addr)
		}
	}
	e.mu.Unlock()
	for _, a := range to {
		e.wg.Go(func() {
			ctx, cancel := context.WithTimeout(e.ctx, directProbe)
			defer cancel()
			if _, err := e.link.Probe(ctx, a); err == nil && e.viaRelay(e.link.Remote()) {
				e.cfg.Logger.Info("moving from the relay to a direct path", "remote", a)
				e.link.Use(a)
			}
		})
	}
}
