package punch

import (
	"context"
	"crypto/rand"
	"net/netip"
	"sync"
	"time"

	"adit/internal/stunmsg"
)

// A Mapping says what the port that a NAT gives to a socket depends on (RFC 4787 §4.1).
type Mapping uint8

// The kinds of mapping. The values are part of the signalling format.
const (
	MappingUnknown      Mapping = iota // fewer than two servers answered
	Unmapped                           // no NAT: the outside sees the own address
	EndpointIndependent                // one port for all destinations
	EndpointDependent                  // another for each address, or each port of one
)

// String returns the kind in words.
func (m Mapping) String() string {
	switch m {
	case Unmapped:
		return "no NAT"
	case EndpointIndependent:
		return "endpoint-independent"
	case EndpointDependent:
		return "endpoint-dependent"
	}
	return "unknown"
}

// A NAT is what is known of the NAT in front of the IPv4 socket: what a peer must know to get past it.
type NAT struct {
	Mapping   Mapping
	Preserved bool           // the first mapping has the port of the socket
	Step      int            // from one new mapping's port to the next one's; 0: no pattern, or none was looked for
	Last      netip.AddrPort // the newest mapping, if there is a Step
}

// Sequential reports whether the ports of new mappings can be told beforehand.
func (n NAT) Sequential() bool {
	return n.Mapping == EndpointDependent && n.Step != 0 && n.Last.IsValid()
}

// Random reports whether nobody can tell the port that the NAT gives to the way to a new destination.
func (n NAT) Random() bool { return n.Mapping == EndpointDependent && !n.Sequential() }

// Predict returns the address of the nth new mapping from now, if nothing else makes any.
func (n NAT) Predict(nth int) netip.AddrPort {
	const first = 1024 // NATs count over the ports that are nobody's
	port := int(n.Last.Port()) + nth*n.Step
	for span := 1<<16 - first; port < first; {
		port += span
	}
	for span := 1<<16 - first; port >= 1<<16; {
		port -= span
	}
	return netip.AddrPortFrom(n.Last.Addr(), uint16(port))
}

// classify tells the kind of mapping from what servers saw of one socket. own says whether an address
// is one of this machine's.
func classify(port uint16, seen []mapping, own func(netip.Addr) bool) NAT {
	var n NAT
	if len(seen) == 0 {
		return n
	}
	first := seen[0].mapped
	n.Preserved = first.Port() == port
	if n.Preserved && own(first.Addr()) {
		n.Mapping = Unmapped
		return n
	}
	for _, m := range seen[1:] {
		switch {
		case m.mapped != first:
			n.Mapping = EndpointDependent
			return n
		case m.server != seen[0].server:
			n.Mapping = EndpointIndependent
		}
	}
	return n
}

const (
	surveyLimit = time.Second // four requests

	stepSockets = 8  // fresh ones, asked for one after the other
	stepMost    = 64 // larger steps are taken for chance
)

// step returns the step of a NAT that gave ports in this order, 0 where nothing was heard, or 0 if there
// is no pattern. Others behind the same NAT may have taken some in between: steps may be a few times as
// large as they should, and all have one sign.
func step(ports []uint16) int {
	var steps []int
	last := -1
	for i, p := range ports {
		if p == 0 {
			continue
		}
		if last >= 0 {
			d, n := int(p)-int(ports[last]), i-last
			if d%n != 0 || d == 0 || d > stepMost*n || d < -stepMost*n {
				d, n = 0, 1 // the count began again, or somebody else was faster
			}
			steps = append(steps, d/n)
		}
		last = i
	}
	votes, best := make(map[int]int), 0
	for _, d := range steps {
		if d == 0 {
			continue
		}
		if votes[d]++; best == 0 || votes[d] > votes[best] {
			best = d
		}
	}
	if len(steps) < 3 || votes[best]*2 <= len(steps) {
		return 0
	}
	return best
}

// NAT says what is known of the NAT in front of the IPv4 socket from what the servers answered during
// the last Gather. Where each destination has another mapping it asks again, from fresh sockets, to find
// out whether there is a pattern in the ports, and where that stands now: one round trip, 600 ms at most.
// ctx may end it earlier.
func (h *Host) NAT(ctx context.Context) NAT {
	s := h.sock(0)
	if s == nil {
		return NAT{}
	}
	h.mu.Lock()
	seen := h.seen
	h.mu.Unlock()
	n := classify(s.port, seen, h.ownAddr)
	if n.Mapping != EndpointDependent {
		return n
	}
	ports, last := h.freshPorts(ctx, seen[0].server)
	if n.Step = step(ports); n.Step != 0 {
		n.Last = last
	}
	return n
}

// Survey is NAT for who can wait: if too few servers answered during the last Gather it asks them all again,
// for a second at most.
func (h *Host) Survey(ctx context.Context) NAT {
	n := h.NAT(ctx)
	if n.Mapping != MappingUnknown || h.sock(0) == nil || len(h.servers()) < 2 {
		return n
	}
	one, cancel := context.WithTimeout(ctx, surveyLimit)
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	servers := h.servers()
	answers := make(chan mapping, 2*len(servers)) // room for all
	var wg sync.WaitGroup
	for _, server := range servers {
		wg.Go(func() {
			h.ask(one, server, [2]bool{true, false}, func(_ int, m mapping, err error) {
				if err == nil {
					answers <- m
				}
			})
		})
	}
	go func() {
		wg.Wait()
		close(answers)
	}()
	var seen []mapping
	for m := range answers {
		seen = append(seen, m)
		if n = classify(h.sock(0).port, seen, h.ownAddr); n.Mapping != MappingUnknown {
			cancel() // enough is known: the others end
		}
	}
	h.mu.Lock()
	h.seen = seen
	h.mu.Unlock()
	return h.NAT(ctx)
}

// freshPorts asks a server from one fresh socket after the other which port it sees. It returns them in
// that order, 0 for those that were not told, and the newest mapping, extrapolated to that of the last
// socket if that was not told.
func (h *Host) freshPorts(ctx context.Context, server netip.AddrPort) (ports []uint16, last netip.AddrPort) {
	const wait = 600 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	type told struct {
		i      int
		mapped netip.AddrPort
	}
	answers := make(chan told, stepSockets)
	n := 0
	for i := range stepSockets {
		s, err := h.listenFresh()
		if err != nil {
			break
		}
		n++
		var id stunmsg.ID
		rand.Read(id[:])                                             // never fails
		_ = s.send(stunmsg.Request(id), stunmsg.HeaderBytes, server) // a request lost is one port less
		go func() {
			answers <- told{i, s.await(ctx, id, server)}
		}()
	}
	ports = make([]uint16, n)
	newest := -1
	for range n {
		t := <-answers
		if !t.mapped.IsValid() {
			continue
		}
		ports[t.i] = t.mapped.Port()
		if t.i > newest {
			newest, last = t.i, t.mapped
		}
	}
	return ports, last
}

// await waits for the answer to a binding request, and closes the socket. The zero AddrPort says that
// none came before ctx ended.
func (s *socket) await(ctx context.Context, id stunmsg.ID, server netip.AddrPort) netip.AddrPort {
	defer s.conn.Close()
	defer context.AfterFunc(ctx, func() { s.conn.Close() })()
	var b [maxSTUN]byte
	for failures := 0; ; {
		n, from, err := s.conn.ReadFromUDPAddrPort(b[:])
		if err != nil {
			if failures++; ctx.Err() != nil || failures > maxFailures {
				return netip.AddrPort{}
			}
			continue
		}
		if from = s.from(from); from != server {
			continue
		}
		typ, got, ok := stunmsg.Parse(b[:n])
		if !ok || typ != stunmsg.BindingSuccess || got != id {
			continue
		}
		if mapped, ok := stunmsg.Mapped(b[:n], id); ok && mapped.Addr().Is4() {
			return mapped
		}
	}
}
