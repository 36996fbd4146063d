package peer

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"adit/internal/punch"
	"adit/signal"
)

const (
	// burstAfter is how long plain checks have before it is looked into why they do not succeed.
	burstAfter = time.Second

	// natWait is how long the peer may take to tell what it sees of its own NAT now.
	natWait = 2 * time.Second

	// Two NATs that both count are tried so often, for so long, each time with new predictions.
	predictRounds = 5
	predictFor    = 4 * time.Second
	predictPorts  = 64 // sockets of each side; the peer aims at the middle one

	// Where one NAT counts, one in so many of the ports that its sockets must have by now is tried
	// first.
	aimEach, aimTries = 16, 32

	// hopelessAfter is how much longer two NATs have that no way past is known of.
	hopelessAfter = 9 * time.Second

	// aimAfter is how long such a NAT's side has to open its sockets.
	aimAfter = 700 * time.Millisecond
)

const (
	// A session bursts so often one right after the other, and then once in burstEvery: the peer chooses
	// the address, and may ask for as many generations as it likes.
	burstsAtOnce = 5
	burstEvery   = 10 * time.Minute
)

// errHopeless says that both NATs change ports per destination, and one of them at random.
var errHopeless = errors.New("both NATs change ports per destination")

// natTalk is what both sides tell each other of their NATs. newNATTalk makes one.
type natTalk struct {
	out   chan signal.NAT // capacity 1: the newest, for who trickles
	heard chan signal.NAT // capacity 1: the peer's newest

	mu       sync.Mutex
	trickles bool // somebody reads out
	own      punch.NAT
	peer     signal.NAT
	public   netip.AddrPort // the first reflexive IPv4 address that the peer has named of late
	fullAt   time.Time      // when burstsAtOnce bursts are left again
}

func newNATTalk() *natTalk {
	return &natTalk{out: make(chan signal.NAT, 1), heard: make(chan signal.NAT, 1)}
}

// replace puts v into a channel of capacity 1, in the place of what waits there.
func replace(c chan signal.NAT, v signal.NAT) {
	for {
		select {
		case c <- v:
			return
		default:
		}
		select {
		case <-c:
		default:
		}
	}
}

// measured takes note of this side's NAT.
func (n *natTalk) measured(own punch.NAT) signal.NAT {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.own = own
	return toSignalNAT(own)
}

// told returns what is known of this side's NAT.
func (n *natTalk) told() signal.NAT {
	n.mu.Lock()
	defer n.mu.Unlock()
	return toSignalNAT(n.own)
}

// describe takes in what the peer's description says.
func (n *natTalk) describe(v signal.NAT) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peer = v
}

// hear takes in what the peer says of its NAT later. Nothing, and what it said before, is no news.
func (n *natTalk) hear(v signal.NAT) {
	n.mu.Lock()
	news := v != n.peer && v != signal.NAT{}
	if news {
		n.peer = v
	}
	n.mu.Unlock()
	if news {
		replace(n.heard, v)
	}
}

// see takes note of where the peer's NAT is.
func (n *natTalk) see(c signal.Candidate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.Type == signal.ServerReflexive && c.Addr.Addr().Unmap().Is4() && !n.public.IsValid() {
		n.public = netip.AddrPortFrom(c.Addr.Addr().Unmap(), c.Addr.Port())
	}
}

// forgetPublic makes room for where the peer's NAT is now.
func (n *natTalk) forgetPublic() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.public = netip.AddrPort{}
}

// trickle says that there is a way to tell the peer more than descriptions do.
func (n *natTalk) trickle() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.trickles = true
}

// mayBurst takes one of the session's bursts, if there is one left.
func (n *natTalk) mayBurst(now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fullAt.Sub(now) > (burstsAtOnce-1)*burstEvery {
		return false
	}
	if n.fullAt.Before(now) {
		n.fullAt = now
	}
	n.fullAt = n.fullAt.Add(burstEvery)
	return true
}

// hopeless reports whether no way past the two NATs is known.
func (n *natTalk) hopeless() bool {
	own, peer, _, _, _ := n.state()
	return own.Random() && peer.Mapping == punch.EndpointDependent || peer.Random() && own.Mapping == punch.EndpointDependent
}

func (n *natTalk) state() (own, peer punch.NAT, willing, trickles bool, public netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.own, toPunchNAT(n.peer), n.peer.Burst, n.trickles, n.public
}

func toSignalNAT(n punch.NAT) signal.NAT {
	if n == (punch.NAT{}) {
		return signal.NAT{}
	}
	return signal.NAT{Mapping: uint8(n.Mapping), Preserved: n.Preserved, Burst: true, Step: int16(n.Step), Last: n.Last}
}

func toPunchNAT(n signal.NAT) punch.NAT {
	return punch.NAT{Mapping: punch.Mapping(n.Mapping), Preserved: n.Preserved, Step: int(n.Step), Last: n.Last}
}

// A plan is what one side does where plain checks cannot be enough.
type plan uint8

const (
	noPlan  plan = iota
	spray        // this side's NAT is hard, the other's is not
	probe        // the other way round
	predict      // both are, and both count
)

// String returns what the plan is, for logs.
func (p plan) String() string {
	return [...]string{"nothing more", "many sockets", "many ports", "predicted ports"}[p]
}

// planFor returns what to do. Both sides come to plans that fit each other, for both know both NATs.
func planFor(own, peer punch.NAT) plan {
	switch {
	case own.Mapping == punch.EndpointDependent && peer.Mapping == punch.EndpointIndependent:
		return spray
	case own.Mapping == punch.EndpointIndependent && peer.Mapping == punch.EndpointDependent:
		return probe
	case own.Sequential() && peer.Sequential():
		return predict
	}
	return noPlan
}

// beyondICE does for a pair of NATs what plain checks cannot, if they do not succeed soon: see punch.Spray
// and docs/nat.md. It returns nil when ctx ends, when a hole was found, which ICE then takes up, or when there
// is nothing (more) to do; and errHopeless when no check can succeed, after a while in which the router
// may have mapped a port all the same.
//
// With a pasted line the two sides do not begin at the same moment, which bursts need.
func (e *endpoint) beyondICE(ctx context.Context, agent *punch.Agent) error {
	if e.cfg.Signal == "" || e.cfg.Signal == "paste" || !sleep(ctx, e.burstWait()) || e.settle(ctx) != nil {
		return nil
	}
	for round := range predictRounds {
		e.tellNAT(e.nat.measured(e.host.Survey(ctx))) // mappings have been made since
		own, peer, willing, trickles, public := e.nat.state()
		if trickles && (peer.Mapping == punch.MappingUnknown || peer.Sequential()) {
			select {
			case <-e.nat.heard:
				own, peer, willing, _, public = e.nat.state()
			case <-time.After(natWait):
			case <-ctx.Done():
				return nil
			}
		}
		p := planFor(own, peer)
		e.cfg.Logger.Info("plain checks did not succeed so far", "own", own, "peer", peer, "willing", willing, "plan", p.String(), "round", round)
		if !willing || p == noPlan {
			if e.nat.hopeless() && sleep(ctx, hopelessAfter) {
				return errHopeless
			}
			return nil
		}
		if round == 0 && !e.nat.mayBurst(time.Now()) {
			e.cfg.Logger.Info("no burst: there were enough of late")
			return nil
		}
		var err error
		switch p {
		case spray:
			err = agent.Spray(ctx, public, punch.MaxSpray, false)
		case probe:
			if peer.Sequential() && !sleep(ctx, aimAfter) {
				return nil
			}
			err = agent.Probe(ctx, hardAddr(peer, public), aims(peer))
		case predict:
			one, cancel := context.WithTimeout(ctx, predictFor)
			err = agent.Spray(one, peer.Predict(predictPorts/2), predictPorts, true)
			cancel()
		}
		if err == nil {
			e.mu.Lock()
			e.burst = true
			e.mu.Unlock()
		}
		e.cfg.Logger.Debug("burst ended", "plan", p.String(), "round", round, "err", err)
		if err == nil || p != predict || ctx.Err() != nil {
			return nil
		}
	}
	return nil
}

// hardAddr is the address whose ports are probed.
func hardAddr(peer punch.NAT, public netip.AddrPort) netip.Addr {
	if peer.Sequential() {
		return peer.Last.Addr()
	}
	return public.Addr()
}

// aims returns the ports that a NAT which counts must have given to some of the peer's sockets.
func aims(peer punch.NAT) []uint16 {
	if !peer.Sequential() {
		return nil
	}
	out := make([]uint16, aimTries)
	for i := range out {
		out[i] = peer.Predict((i + 1) * aimEach).Port()
	}
	return out
}

// tellNAT tells the peer, by the channel they met on and by the relay that may carry the link already.
func (e *endpoint) tellNAT(v signal.NAT) {
	replace(e.nat.out, v)
	// Without a path yet it waits there for one. The peer goes by the description otherwise.
	_ = e.link.SendControl(append([]byte{controlNAT}, marshal(signal.Description{NAT: v})...))
}

// sleep reports whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
