package punch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/stun"

	"adit/internal/stunmsg"
	"adit/internal/uplink"
)

// Some pairs of NATs keep ICE out: one changes the port for each destination ("hard"), and the other lets
// in nobody but whom it sent to, by address and port. What helps is many ports at once:
//
//	hard side                                         other side
//	Spray: 256 sockets, each with a mapping            Probe: checks from the one socket to 2,048
//	of its own towards the other's address             ports of the hard side's address
//
// A check that meets one of the 256 ports is let in there, and with it the hole is there: 256 of 64,512
// ports and 2,048 tries make 99.97 %. Where the hard NAT counts, the first tries are at the ports that it
// must be at by now; two NATs that both count Spray at each other, each at one port that the other must
// be using for one of its sockets.
//
// The checks are those of ICE, authenticated, for which nobody else has the password; a socket that heard
// one is the one by which packets to where it came from leave from then on. All else is ICE's own.
//
// What comes from the hard side dies after a few hops, except between two that spray: see muxConn.WriteTo.
const (
	probePause   = 10 * time.Millisecond // between two checks of Probe
	maxProbes    = 2048
	sprayPause   = 2 * time.Millisecond // between two sockets
	sprayRefresh = 10 * time.Second     // NATs keep a mapping 30 s or more
	sprayAgain   = time.Second          // between the rounds of two that spray
	burstLimit   = 30 * time.Second

	// maxFailures is how many ICMP messages and the like one socket of a burst may hear of: more than it
	// sends packets.
	maxFailures = 64

	// MaxSpray is how many sockets a Spray may use.
	MaxSpray = 256
)

// errNoHole says that a burst ended without a hole.
var errNoHole = errors.New("no hole was found")

// peer returns what SetRemote was told.
func (a *Agent) peer() Credentials {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.remote
}

// check builds a connectivity check as ICE would send it (RFC 8445 §7.1).
func (a *Agent) check() ([]byte, stunmsg.ID, error) {
	remote := a.peer()
	var role stun.Setter = ice.AttrControlled(a.tie)
	if a.controlling {
		role = ice.AttrControlling(a.tie)
	}
	m, err := stun.Build(stun.BindingRequest, stun.TransactionID,
		stun.NewUsername(remote.Ufrag+":"+a.mux.ufrag), role,
		ice.PriorityAttr(priority(PeerReflexive, false, 0)),
		stun.NewShortTermIntegrity(remote.Pwd), stun.Fingerprint)
	if err != nil {
		return nil, stunmsg.ID{}, fmt.Errorf("build check: %w", err)
	}
	return m.Raw, m.TransactionID, nil
}

// Probe sends checks to the ports of one IPv4 address, those of first before others at random, 100 a
// second and 2,048 at most, until one is answered, which returns nil. It needs SetRemote, and goes on
// for 30 s at most. Errors: ctx's cause, ErrClosed, ErrAddress, or that no port answered.
func (a *Agent) Probe(ctx context.Context, to netip.Addr, first []uint16) error {
	s := a.host.sock(0)
	if s == nil || !burstable(to, a.host.cfg.Loopback) {
		return fmt.Errorf("probe ports of %v: %w", to, ErrAddress)
	}
	ctx, cancel := a.burst(ctx)
	defer cancel()
	hit := make(chan netip.AddrPort, 1) // of several answers the first will do
	pwd := stun.NewShortTermIntegrity(a.peer().Pwd)
	tick := time.NewTicker(probePause)
	defer tick.Stop()
	next := ports(first)
	for sent := 0; ; {
		select {
		case from := <-hit:
			a.host.log.Debug("probe answered", "from", from, "sent", sent)
			return nil
		case <-ctx.Done():
			return a.burstError(ctx)
		case <-tick.C:
			if sent == maxProbes {
				continue // answers may be under way
			}
			sent++
			b, id, err := a.check()
			if err != nil {
				return err
			}
			a.host.table.expect(id, transaction{hit: hit, pwd: pwd})
			_ = s.send(b, len(b), netip.AddrPortFrom(to, next())) // lost
		}
	}
}

// burstable reports whether a peer may name an address for so many packets: no NAT's outside is on a private
// network, but the machines of this one are.
func burstable(a netip.Addr, loopback bool) bool {
	return a.Is4() && uplink.UsableAddr(a, loopback) && !a.IsPrivate()
}

// ports returns a function that returns those of first and then others from 1,024 on at random, none
// twice.
func ports(first []uint16) func() uint16 {
	seen := make(map[uint16]struct{}, maxProbes)
	return func() uint16 {
		for {
			p := uint16(1024 + rand.IntN(1<<16-1024))
			if len(first) > 0 {
				p, first = first[0], first[1:]
			}
			if _, again := seen[p]; !again && p != 0 {
				seen[p] = struct{}{}
				return p
			}
		}
	}
}

// Spray opens up to n sockets, at most MaxSpray, and keeps a mapping of each towards an IPv4 address
// alive until an authentic check comes in by one of them. That one stays: packets to where the check came
// from leave by it from now on. The others are closed, and Spray returns nil. far says that the peer
// sprays too: after the first round the checks go all the way. It needs SetRemote, and goes on for 30 s
// at most. Errors: ctx's cause, ErrClosed, ErrAddress, or that nothing came.
func (a *Agent) Spray(ctx context.Context, to netip.AddrPort, n int, far bool) error {
	if to.Port() == 0 || !burstable(to.Addr(), a.host.cfg.Loopback) {
		return fmt.Errorf("spray at %v: %w", to, ErrAddress)
	}
	ctx, cancel := a.burst(ctx)
	defer cancel()
	w := &winner{agent: a, done: cancel}
	var wg sync.WaitGroup
	var socks []*socket
	defer func() {
		won := w.end()
		for _, s := range socks {
			if s != won {
				_ = s.conn.Close() // its reader ends
			}
		}
		wg.Wait()
	}()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for round := 0; ; round++ {
		for i := 0; i < min(n, MaxSpray); i++ {
			select {
			case <-pause.C:
			case <-ctx.Done():
				return w.result(ctx)
			}
			if i == len(socks) { // in the first round
				s, err := a.host.listenFresh()
				if err != nil {
					a.host.log.Debug("spray with fewer sockets", "sockets", i, "err", err)
					n = i
					pause.Reset(0)
					break
				}
				socks = append(socks, s)
				if !w.read(ctx, s, &wg) {
					return ErrClosed
				}
			}
			b, _, err := a.check()
			if err != nil {
				return err
			}
			if round > 0 && far {
				_ = socks[i].send(b, len(b), to) // lost
			} else {
				_ = socks[i].sendNear(b, nearHops, to) // lost
			}
			pause.Reset(sprayPause)
		}
		if len(socks) == 0 {
			return fmt.Errorf("spray at %v: %w", to, errNoHole)
		}
		wait := sprayRefresh
		if far {
			wait = sprayAgain
		}
		if far && round == 0 {
			wait = nearChecks * 100 * time.Millisecond
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return w.result(ctx)
		}
		pause.Reset(wait)
	}
}

// burst bounds a burst in time. It ends with the agent and the host too.
func (a *Agent) burst(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeoutCause(parent, burstLimit, errNoHole)
	stop := context.AfterFunc(a.host.ctx, cancel)
	ended := make(chan struct{})
	go func() {
		select {
		case <-a.closed:
			cancel()
		case <-ended:
		}
	}()
	return ctx, sync.OnceFunc(func() { close(ended); stop(); cancel() })
}

func (a *Agent) burstError(ctx context.Context) error {
	if a.isClosed() || a.host.ctx.Err() != nil {
		return ErrClosed
	}
	return context.Cause(ctx)
}

// A winner is the socket of a spray that heard a check first.
type winner struct {
	agent *Agent
	done  context.CancelFunc // ends the spray

	mu   sync.Mutex
	over bool    // it is too late to win
	sock *socket // nil: none yet
}

// end returns the winner, if there is one: there will be no other.
func (w *winner) end() *socket {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	return w.sock
}

func (w *winner) result(ctx context.Context) error {
	if w.end() != nil {
		return nil
	}
	return w.agent.burstError(ctx)
}

// read waits for an authentic check. If it is the first of all sockets, the socket becomes one of the
// host's, which reads on. false means that the host is closed.
func (w *winner) read(ctx context.Context, s *socket, wg *sync.WaitGroup) bool {
	h := w.agent.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	wg.Add(1)
	h.wg.Go(func() {
		won := false
		defer func() {
			if !won {
				wg.Done()
			}
		}()
		var b [maxSTUN]byte
		failures := 0
		for {
			n, from, err := s.conn.ReadFromUDPAddrPort(b[:])
			if err != nil {
				if failures++; ctx.Err() != nil || failures > maxFailures {
					return
				}
				continue // an ICMP message: the check died on its way, as it should
			}
			from = s.from(from)
			if !w.agent.authentic(b[:n], from) {
				continue
			}
			r := w.claim(s, from)
			if r == nil {
				continue
			}
			won = true
			wg.Done()
			got := func(b []byte, segment int, from netip.AddrPort) { h.receiveBy(r, b, segment, from) }
			got(b[:n], n, from)
			s.readLoop(h.ctx, got)
			return
		}
	})
	return true
}

// claim makes s the winner, if there is none and the host is open, and returns the route by it.
func (w *winner) claim(s *socket, from netip.AddrPort) *route {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || w.sock != nil {
		return nil
	}
	r := newRoute(from, s)
	if !w.agent.host.table.routes.add(r) {
		return nil
	}
	w.sock = s
	w.done()
	return r
}

// authentic reports whether p is a check for the agent by one who has its password.
func (a *Agent) authentic(p []byte, from netip.AddrPort) bool {
	typ, id, ok := stunmsg.Parse(p)
	if !ok || typ != stunmsg.BindingRequest {
		return false
	}
	user, ok := stunmsg.Find(p, stunmsg.Username)
	if !ok || len(user) <= len(a.mux.ufrag) || string(user[:len(a.mux.ufrag)+1]) != a.mux.ufrag+":" {
		return false
	}
	return a.host.table.limit.allow(from.Addr(), time.Now()) && a.mux.admit(p, id, from)
}
