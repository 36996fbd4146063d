package peer

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"adit/internal/link"
	"adit/internal/punch"
	"adit/signal"
)

// When a peer's kernel says often enough that nobody has the port any more, its process is gone, and not its network.
// docs/protocol.md has the reasons.
const (
	goneAfter    = 10 * time.Second // of silence, from the moment it was noticed
	goneWithin   = 30 * time.Second // of it: whoever is at the address later may be somebody else
	goneFirst    = 3 * time.Second  // the first refusal comes no later than that,
	goneGap      = 4 * time.Second  // and no two further apart
	goneRefusals = 5
	goneEvery    = 500 * time.Millisecond // between looks
)

// ErrEnded says that the peer's process has ended without a word.
var ErrEnded = errors.New("the peer's process has ended without a word")

// A vigil is kept from the moment that a peer falls silent until it is heard, or for goneWithin.
type vigil struct {
	since       time.Time
	n           int       // refusals
	first, last time.Time // when they were seen; zero: none
}

// see takes in how many refusals there were so far. It reports whether the process is gone, and whether there is
// nothing to wait for any more.
func (v *vigil) see(now time.Time, n int) (gone, over bool) {
	if n > v.n {
		v.n, v.last = n, now
		if v.first.IsZero() {
			v.first = now
		}
	}
	switch {
	case now.Sub(v.since) > goneWithin,
		v.first.IsZero() && now.Sub(v.since) > goneFirst,
		!v.first.IsZero() && now.Sub(v.last) > goneGap:
		return false, true
	}
	return v.n >= goneRefusals && now.Sub(v.since) >= goneAfter && now.Sub(v.first) >= goneAfter-goneFirst, false
}

// beginVigil watches the address of the path, if that is one of the peer's own.
func (r *roamer) beginVigil() {
	r.endVigil()
	to := r.e.link.Remote()
	if relayed(to) || !r.e.isHost(to) {
		return
	}
	if r.refusals = r.e.host.WatchRefusals(to, r.e.link.Wrote); r.refusals != nil {
		r.vigil = vigil{since: r.now}
	}
}

func (r *roamer) endVigil() {
	r.refusals.Close()
	r.refusals = nil
}

// vigilStep ends the session if the peer's process is gone.
func (r *roamer) vigilStep(s link.State) {
	if r.refusals == nil {
		return
	}
	if s == link.Up || r.left {
		r.endVigil()
		return
	}
	gone, over := r.vigil.see(r.now, r.refusals.Count())
	if gone {
		r.e.cfg.Logger.Info("the peer's machine says that nobody has the port any more", "remote", r.e.link.Remote(), "times", r.vigil.n)
		r.endSession(failf(ClassGone, "start adit there again, then connect again", ErrEnded, "the peer's adit has ended without a word"))
	}
	if gone || over {
		r.endVigil()
	}
}

// endSession ends the session for a reason of this side's own: nobody is there who could be told.
func (r *roamer) endSession(why *Error) {
	r.left = true
	r.e.died.Store(why)
	r.e.wg.Go(func() { r.e.link.Close("") })
}

// mostHosts bounds the addresses of its own that a peer is known by.
const mostHosts = 64

// knowHost notes an address that the peer says is its own: there is no NAT in front of it that could
// have forgotten this side.
func (e *endpoint) knowHost(c signal.Candidate) {
	if c.Type != signal.CandidateType(punch.HostCandidate) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.hosts) < mostHosts && !slices.Contains(e.hosts, c.Addr) {
		e.hosts = append(e.hosts, c.Addr)
	}
}

func (e *endpoint) forgetHosts() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hosts = nil
}

func (e *endpoint) isHost(a netip.AddrPort) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Contains(e.hosts, a)
}
