package punch

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"adit/internal/uplink"
)

const (
	maxHostCandidates = 12
	maxMappings       = 4  // reported for each family
	maxServers        = 16 // asked

	gatherLimit = 3 * time.Second        // for all servers together
	gatherGrace = 100 * time.Millisecond // for a second answer that tells of another mapping
	familyGrace = 500 * time.Millisecond // for the other family, once one has its answer

	refreshMin    = 20 * time.Second // NATs keep a mapping 30 s or more
	refreshSpread = 5 * time.Second
)

// Gather finds the addresses of this host: report is called from this goroutine, with host
// candidates at once and then with server-reflexive ones as the STUN servers answer. All servers are
// asked at the same time; it returns when each family has its first answer (plus 100 ms for another
// that differs, as symmetric NATs cause), and after three seconds at the latest, servers that did
// not answer or do not resolve being no error. It returns the cause of ctx's end, or ErrClosed.
//
// Afterwards the mappings are refreshed every 20 to 25 s until StopRefresh or Close.
func (h *Host) Gather(ctx context.Context, report func(Candidate)) error {
	if h.ctx.Err() != nil {
		return ErrClosed
	}
	seen := make(map[netip.AddrPort]struct{})
	families := [2]bool{} // those that could reach a server
	for _, c := range h.hostCandidates() {
		seen[c.Addr] = struct{}{}
		families[family(c.Addr.Addr())] = true
		report(c)
	}
	h.findNAT64(ctx)
	if s := h.through.Load(); s != nil && s.prefix.Load() != nil {
		families[0] = true
	}
	servers := h.servers()
	if len(servers) == 0 {
		return nil
	}
	ways := h.openWays()
	race, cancel := context.WithTimeout(ctx, gatherLimit)
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	found := h.askAll(race, servers, families, ways, func(m mapping, index int) {
		if _, known := seen[m.mapped]; known {
			return
		}
		seen[m.mapped] = struct{}{}
		report(Candidate{ServerReflexive, m.mapped, priority(ServerReflexive, m.sock.v6, index)})
	})
	switch {
	case h.ctx.Err() != nil:
		return ErrClosed
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	h.mu.Lock()
	h.seen = nil
	for _, m := range found {
		if !m.sock.v6 && !m.sock.bound.IsValid() {
			h.seen = append(h.seen, m)
		}
	}
	h.mu.Unlock()
	h.closeWays(func(s *socket) bool {
		return slices.ContainsFunc(found, func(m mapping) bool { return m.sock == s })
	})
	h.startRefresh(found)
	return nil
}

// SetSTUN names the servers that are asked from now on, as host:port; at most 16 are used.
func (h *Host) SetSTUN(servers []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stun = slices.Clone(servers[:min(len(servers), maxServers)])
}

// servers returns the servers to ask. It is not written to.
func (h *Host) servers() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stun
}

func family(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}

// hostCandidates returns the addresses of the interfaces, best first, families interleaved.
func (h *Host) hostCandidates() []Candidate {
	addrs, err := localAddrs(h.cfg.Loopback)
	if err != nil {
		h.log.Warn("list network interfaces", "err", err)
		return nil
	}
	var byFamily [2][]netip.Addr
	for _, a := range addrs {
		i := family(a)
		if !slices.Contains(byFamily[i], a) {
			byFamily[i] = append(byFamily[i], a)
		}
	}
	var out []Candidate
	for i, s := range h.socks {
		if s == nil {
			continue
		}
		src, _ := uplink.Source(s.v6)
		rank := func(a netip.Addr) int {
			switch {
			case a.IsLoopback():
				return 2
			case a == src:
				return 0
			}
			return 1
		}
		slices.SortStableFunc(byFamily[i], func(a, b netip.Addr) int { return rank(a) - rank(b) })
		for n, a := range byFamily[i] {
			out = append(out, Candidate{HostCandidate, netip.AddrPortFrom(a, s.port), priority(HostCandidate, s.v6, n)})
		}
	}
	slices.SortFunc(out, func(a, b Candidate) int { return int(b.Priority>>8) - int(a.Priority>>8) })
	return out[:min(len(out), maxHostCandidates)]
}

// base returns the address under which an agent knows a socket: the source of the default route, or
// without one the best candidate of the family.
func (h *Host) base(s *socket) (netip.Addr, bool) {
	if s.over != nil {
		return ownIPv4, true
	}
	if a, ok := uplink.Source(s.v6); ok && uplink.UsableAddr(a, h.cfg.Loopback) {
		return a, true
	}
	for _, c := range h.hostCandidates() {
		if c.Addr.Addr().Is6() == s.v6 {
			return c.Addr.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// A mapping is what one server said about one socket.
type mapping struct {
	sock   *socket
	server netip.AddrPort
	mapped netip.AddrPort
}

// askAll races the servers and returns their answers in the order in which they came. report is
// called for each mapping that no answer had before, with its index in its family.
//
// A way counts if it is seen at another address than the host's own sockets.
func (h *Host) askAll(ctx context.Context, servers []string, families [2]bool, ways []*socket, report func(mapping, int)) []mapping {
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		family int
		mapping
		err error
	}
	results := make(chan result, 2*len(servers)) // room for all: nobody has to be there to receive
	var pending [2]int
	for i := range h.socks {
		if families[i] && h.sock(i) != nil {
			pending[i] = len(servers)
		}
	}
	other := make(chan result, len(ways)) // room for all
	var asking sync.WaitGroup
	h.askWays(ctx, &asking, ways, servers, func(m mapping, err error) { other <- result{0, m, err} })
	waiting := len(ways)
	running := make(chan struct{}, len(servers))
	for _, server := range servers {
		go func() {
			defer func() { running <- struct{}{} }()
			h.ask(ctx, server, families, func(i int, m mapping, err error) { results <- result{i, m, err} })
		}()
	}
	defer func() {
		cancel()
		for range servers {
			<-running
		}
		asking.Wait()
	}()
	var (
		found   []mapping
		count   [2]int
		differs [2]map[netip.AddrPort]struct{}
		end     <-chan time.Time
		graced  [2]bool // of the timers below, those that run
	)
	defer func() {
		for i, n := range count {
			if n > 1 {
				h.log.Info("the NAT gives each destination another mapping", "network", network(i == 1), "mappings", n)
			}
		}
	}()
	// What comes by a way is told when it is known where the others lead.
	var held []mapping
	finish := func() []mapping {
		for _, m := range held {
			if !slices.ContainsFunc(found, func(o mapping) bool { return o.mapped.Addr() == m.mapped.Addr() }) {
				found = append(found, m)
				h.own(m.mapped)
				report(m, maxMappings+len(found))
			}
		}
		return found
	}
	for pending[0]+pending[1]+waiting > 0 {
		select {
		case r := <-other:
			waiting--
			if r.err != nil {
				h.log.Debug("stun by another way", "err", r.err)
				continue
			}
			held = append(held, r.mapping)
			if !graced[0] && !graced[1] {
				graced[0] = true
				end = time.After(familyGrace)
			}
		case r := <-results:
			pending[r.family]--
			if r.err != nil {
				h.log.Debug("stun", "err", r.err)
			} else {
				found = append(found, r.mapping)
				if differs[r.family] == nil {
					differs[r.family] = make(map[netip.AddrPort]struct{})
				}
				if _, known := differs[r.family][r.mapped]; !known && count[r.family] < maxMappings {
					differs[r.family][r.mapped] = struct{}{}
					h.own(r.mapped)
					report(r.mapping, count[r.family])
					count[r.family]++
				}
			}
			settled := 0
			for i := range pending {
				if pending[i] == 0 || count[i] > 0 {
					settled++
				}
			}
			switch {
			case settled == 2 && !graced[1] && waiting > 0:
				graced[1] = true
				end = time.After(familyGrace)
			case settled == 2 && !graced[1]:
				graced[1] = true
				end = time.After(gatherGrace)
			case len(found) > 0 && !graced[0] && !graced[1]:
				graced[0] = true
				end = time.After(familyGrace)
			}
		case <-end:
			return finish()
		case <-ctx.Done():
			return finish()
		}
	}
	return finish()
}

// ask resolves one server and asks at its addresses; tell is called once for each family that is on.
func (h *Host) ask(ctx context.Context, server string, families [2]bool, tell func(int, mapping, error)) {
	addrs, err := resolve(ctx, server)
	done := make(chan struct{}, len(addrs))
	for i := range h.socks {
		s := h.sock(i)
		if s == nil || !families[i] {
			done <- struct{}{}
			continue
		}
		go func() {
			defer func() { done <- struct{}{} }()
			switch {
			case err != nil:
				tell(i, mapping{}, err)
			case !addrs[i].IsValid():
				tell(i, mapping{}, errSTUN)
			default:
				mapped, err := h.query(ctx, s, addrs[i])
				tell(i, mapping{s, addrs[i], mapped}, err)
			}
		}()
	}
	for range addrs {
		<-done
	}
}

// own remembers a mapped address as one of this host.
func (h *Host) own(a netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.mapped) >= 64 {
		clear(h.mapped) // they are of old mappings
	}
	h.mapped[a] = struct{}{}
}

// startRefresh replaces the refresh of an earlier Gather.
func (h *Host) startRefresh(found []mapping) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopRefresh != nil {
		h.stopRefresh()
		h.stopRefresh = nil
	}
	if h.closed || len(found) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(h.ctx)
	h.stopRefresh = cancel
	h.wg.Go(func() { h.refresh(ctx, found) })
}

// StopRefresh ends the refresh of the mappings. A path that is up keeps its own alive.
func (h *Host) StopRefresh() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopRefresh != nil {
		h.stopRefresh()
		h.stopRefresh = nil
	}
}

// refresh keeps the mappings of both families alive while nothing else is sent from the sockets.
func (h *Host) refresh(ctx context.Context, found []mapping) {
	for {
		t := time.NewTimer(refreshMin + rand.N(refreshSpread))
		select {
		case <-t.C:
			h.refreshOnce(ctx, found)
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// refreshOnce asks, for each socket, one server after the other until one answers. found is updated.
func (h *Host) refreshOnce(ctx context.Context, found []mapping) {
	var socks []*socket
	for _, m := range found {
		if !slices.Contains(socks, m.sock) {
			socks = append(socks, m.sock)
		}
	}
	for _, s := range socks {
		for i := range found {
			m := &found[i]
			if m.sock != s {
				continue
			}
			one, cancel := context.WithTimeout(ctx, gatherLimit)
			now, err := h.query(one, m.sock, m.server)
			cancel()
			if err != nil {
				h.log.Debug("refresh mapping", "err", err)
				continue
			}
			if now != m.mapped {
				h.log.Info("the mapped address changed", "from", m.mapped, "to", now)
				m.mapped = now
				h.own(now)
			}
			break
		}
	}
}
