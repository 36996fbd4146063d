package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"adit/internal/nat64"
	"adit/internal/punch"
	"adit/internal/stunmsg"
	"adit/internal/uplink"
)

const (
	mappingFor  = 1600 * time.Millisecond // a server has that long to answer
	prefixFor   = time.Second
	resolveFor  = 2 * time.Second
	behaviorFor = 1200 * time.Millisecond // for an answer that a NAT may keep out
	patternFor  = 700 * time.Millisecond
	freshes     = 8 // sockets that are asked from one after the other for a pattern in the ports
	filterTests = 3 // servers that are asked for answers from elsewhere
)

// sizes are those of IP packets that are tried: Ethernet's, what usual tunnels leave of it, and what is left of that
// in odd places, down to what every host takes (RFC 1122 §3.3.3).
var sizes = []int{1500, 1492, 1480, 1460, 1420, 1400, 1340, 1280, 1228, 1124, 1000, 800, 576}

// A target is an address of a STUN server.
type target struct {
	server int // index in the report
	addr   netip.AddrPort
	ours   bool // of the rendezvous
}

// stun asks the servers and tests both families. It returns why there must be a further NAT behind the
// router, as far as the hops tell.
func (r *run) stun(ctx context.Context) (hops string) {
	names := unique(append(slices.Clone(r.offer), r.cfg.STUN...))
	if len(names) == 0 {
		names = r.cfg.Fallback
	}
	if len(names) > maxServers {
		names = names[:maxServers]
	}
	r.report.STUN = make([]Server, len(names))
	both := make([][2]netip.AddrPort, len(names))
	var wg sync.WaitGroup
	for i, n := range names {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, resolveFor)
			defer cancel()
			var err error
			r.report.STUN[i].Name = n
			if both[i], err = resolve(ctx, n); err != nil {
				r.report.STUN[i].Error = err.Error()
			}
		})
	}
	wg.Wait()
	var targets [2][]target
	for i, addrs := range both {
		for v, a := range addrs {
			if a.IsValid() {
				targets[v] = append(targets[v], target{i, a, slices.Contains(r.offer, names[i])})
			}
		}
	}
	// One entry of the report is written for each server, by the family that it is asked with.
	var servers [2][]Server
	four := r.translated(ctx)
	for v, f := range []*Family{&r.report.IPv4, &r.report.IPv6} {
		servers[v] = make([]Server, len(names))
		wg.Go(func() {
			h := r.family(ctx, f, [2]way{{prefix: four}, {v6: true}}[v], targets[v], servers[v])
			if v == 0 {
				hops = h
			}
		})
	}
	wg.Wait()
	for i := range r.report.STUN {
		s := &r.report.STUN[i]
		for v := range servers {
			if got := servers[v][i]; got.Addr.IsValid() && (!s.Addr.IsValid() || s.Error != "" && got.Error == "") {
				got.Name = s.Name
				*s = got
			}
		}
	}
	return hops
}

// test asks a server from the way's address. It is a way of its own if that sees another address than main ones.
func (o *WayOut) test(ctx context.Context, w way, server netip.AddrPort, main []netip.AddrPort) {
	s, err := listenFrom(w, o.From, 0)
	if err != nil {
		return // the address is gone
	}
	defer s.close()
	r, _, err := s.ask(ctx, server, -1, 0, behaviorFor)
	if err != nil || r.kind != stunmsg.BindingSuccess || !r.mapped.IsValid() {
		return
	}
	o.Public = r.mapped.Addr()
	o.Used = !slices.ContainsFunc(main, func(a netip.AddrPort) bool { return a.Addr() == o.Public })
}

// translated returns the prefix of the NAT64 through which IPv4 must go; an invalid one if there is none, or no
// need for it.
func (r *run) translated(ctx context.Context) netip.Prefix {
	if r.cfg.Loopback || !punch.OnlyIPv6() {
		return netip.Prefix{}
	}
	ctx, cancel := context.WithTimeout(ctx, prefixFor)
	defer cancel()
	p, err := nat64.Discover(ctx)
	if err != nil {
		r.cfg.Logger.Info("IPv4", "err", err)
		return netip.Prefix{}
	}
	r.report.IPv4.NAT64 = p
	return p
}

// resolve returns a server's addresses, one of each family at most.
func resolve(ctx context.Context, server string) (out [2]netip.AddrPort, err error) {
	host, service, err := net.SplitHostPort(server)
	if err != nil {
		return out, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return out, fmt.Errorf("%q is no port", service)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return out, err
	}
	for _, a := range addrs {
		a = a.Unmap()
		v := 0
		if a.Is6() {
			v = 1
		}
		if !out[v].IsValid() {
			out[v] = netip.AddrPortFrom(a, uint16(port))
		}
	}
	return out, nil
}

// family makes the tests of one family.
func (r *run) family(ctx context.Context, f *Family, w way, targets []target, servers []Server) (hops string) {
	if len(targets) == 0 {
		return ""
	}
	s, err := listen(w, r.cfg.Port)
	if err != nil {
		for _, t := range targets {
			servers[t.server] = Server{Addr: t.addr, Error: err.Error()}
		}
		return ""
	}
	defer s.close()
	var wg sync.WaitGroup
	for _, t := range targets {
		wg.Go(func() {
			got, rtt, err := s.ask(ctx, t.addr, -1, 0, mappingFor)
			one := Server{Addr: t.addr}
			switch {
			case err != nil:
				one.Error = err.Error()
			case got.from != t.addr || got.kind != stunmsg.BindingSuccess || !got.mapped.IsValid() || got.mapped.Addr().Is6() != w.v6:
				one.Error = "its answer is not that of a STUN server"
			case stunmsg.Behind(t.addr.Addr(), got.mapped.Addr()) && !r.cfg.Loopback:
				one.Error = fmt.Sprintf("it stands behind a NAT or a proxy of its own: it sees this machine at %v", got.mapped.Addr())
				one.Blind = true
			default:
				one.Mapped, one.RTT = got.mapped, milliseconds(rtt)
			}
			servers[t.server] = one
		})
	}
	wg.Wait()
	var seen []observation
	var there []target
	for _, t := range targets {
		if one := servers[t.server]; one.Error == "" {
			seen = append(seen, observation{t.addr, one.Mapped})
			there = append(there, t)
			f.Public = append(f.Public, one.Mapped)
			if f.RTT == 0 || one.RTT < f.RTT {
				f.RTT = one.RTT
			}
		}
	}
	if len(seen) == 0 {
		f.UDP = slices.ContainsFunc(servers, func(s Server) bool { return s.Blind })
		return ""
	}
	f.UDP = true
	f.Public = unique(f.Public)
	f.Mapping = mappingOf(s.port(), seen, func(a netip.Addr) bool { return r.own[a] })
	f.Preserved = seen[0].mapped.Port() == s.port()

	tests := make([]filterTest, min(len(there), filterTests))
	asked := byAddress(there)
	for i := range min(len(tests), len(asked)) {
		wg.Go(func() { tests[i] = filter(ctx, w, asked[i]) })
	}
	if !w.prefix.IsValid() && !r.cfg.Loopback {
		for _, from := range uplink.Others() {
			if from.Is6() == w.v6 {
				f.Ways = append(f.Ways, WayOut{From: from})
			}
		}
		for i := range f.Ways {
			wg.Go(func() { f.Ways[i].test(ctx, w, there[0].addr, f.Public) })
		}
	}
	first := there[0] // of the rendezvous, if that has any: those come first
	wg.Go(func() { f.MTU = mtu(ctx, w, first) })
	if f.Mapping == EndpointMapping {
		wg.Go(func() { f.Hairpin = hairpin(ctx, s, w, first.addr) })
	}
	if f.Mapping.Dependent() {
		wg.Go(func() { f.Step = pattern(ctx, w, first.addr) })
	}
	if !w.over6() && f.Mapping != Unmapped {
		wg.Go(func() { hops = carrierHop(ctx, first.addr) })
	}
	wg.Wait()
	f.Filtering = filteringOf(tests)
	f.NAT = natName(f.Mapping, f.Filtering, f.Step)
	return hops
}

// byAddress returns one target for each address, in order.
func byAddress(all []target) []target {
	var out []target
	for _, t := range all {
		if !slices.ContainsFunc(out, func(o target) bool { return o.addr.Addr() == t.addr.Addr() }) {
			out = append(out, t)
		}
	}
	return out
}

// filter asks a server, from a socket that has sent to nobody else, to answer from another port, and from
// another address if it has one (RFC 5780 section 4.4). What does not come in was kept out, or was never
// sent: a server is believed to do it if it says that it has another address, or is that of a rendezvous.
func filter(ctx context.Context, w way, t target) (out filterTest) {
	s, err := listen(w, 0)
	if err != nil {
		return out
	}
	defer s.close()
	got, _, err := s.ask(ctx, t.addr, 0, 0, behaviorFor)
	if err != nil || got.kind != stunmsg.BindingSuccess {
		return out // 420: it knows nothing of that
	}
	out.hasAddr = got.other.IsValid() && got.other.Addr() != t.addr.Addr()
	out.supported = out.hasAddr || t.ours
	var wg sync.WaitGroup
	wg.Go(func() {
		got, _, err := s.ask(ctx, t.addr, stunmsg.ChangePort, 0, behaviorFor)
		switch {
		case err != nil:
		case got.kind == stunmsg.BindingSuccess && got.from.Addr() == t.addr.Addr() && got.from.Port() != t.addr.Port():
			out.port = true
		default: // from the same port, or a refusal
			out.supported = false
		}
	})
	if out.hasAddr {
		wg.Go(func() {
			got, _, err := s.ask(ctx, t.addr, stunmsg.ChangeAddr|stunmsg.ChangePort, 0, behaviorFor)
			out.around = err == nil && got.kind == stunmsg.BindingSuccess && got.from.Addr() != t.addr.Addr()
		})
	}
	wg.Wait()
	return out
}

// hairpin reports whether what this machine sends to its own public address comes back in. nil if it
// cannot be told.
func hairpin(ctx context.Context, from *socket, w way, server netip.AddrPort) *bool {
	to, err := listen(w, 0)
	if err != nil {
		return nil
	}
	defer to.close()
	at, _, err := to.ask(ctx, server, -1, 0, behaviorFor)
	if err != nil || !at.mapped.IsValid() {
		return nil
	}
	id := newID()
	got, forget := to.expect(id)
	defer forget()
	b := request(id, -1, 0)
	came := false
	for range 3 {
		if _, err := from.write(b, at.mapped); err != nil {
			break
		}
		select {
		case <-got:
			came = true
			return &came
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
	return &came
}

// pattern returns the step of a NAT's ports, from one fresh socket after the other.
func pattern(ctx context.Context, w way, server netip.AddrPort) int {
	ctx, cancel := context.WithTimeout(ctx, patternFor)
	defer cancel()
	ports := make([]uint16, freshes)
	var wg sync.WaitGroup
	for i := range ports {
		s, err := listen(w, 0)
		if err != nil {
			continue
		}
		id := newID()
		got, forget := s.expect(id)
		_, _ = s.write(request(id, -1, 0), server) // what is lost is one port less
		wg.Go(func() {
			defer s.close()
			defer forget()
			select {
			case r := <-got:
				ports[i] = r.mapped.Port()
			case <-ctx.Done():
			}
		})
	}
	wg.Wait()
	return punch.PortStep(ports)
}

// mtu returns the size of the largest IP packet that reached the server whole, or 0 if none did that was
// padded.
func mtu(ctx context.Context, w way, t target) int {
	s, err := listen(w, 0)
	if err != nil {
		return 0
	}
	defer s.close()
	if !punch.DontFragment(s.conn, w.over6()) {
		return 0
	}
	headers := 28
	if w.v6 {
		headers = 48
	}
	arrived := make([]bool, len(sizes))
	var wg sync.WaitGroup
	for i, n := range sizes {
		wg.Go(func() {
			_, _, err := s.ask(ctx, t.addr, -1, (n-headers)&^3, behaviorFor)
			arrived[i] = err == nil
		})
	}
	wg.Wait()
	if i := slices.Index(arrived, true); i >= 0 {
		return sizes[i]
	}
	return 0
}
