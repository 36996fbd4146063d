package punch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"adit/internal/stunmsg"
)

const (
	firstRTO = 250 * time.Millisecond // RFC 8489 §6.2.1 has 500 ms, doubling, for unknown paths
	maxSTUN  = 1500                   // bytes of a message; a check has some hundred
)

var errSTUN = errors.New("no usable answer")

// query asks one server, with retransmissions until ctx ends, where the packets of s come from.
func (h *Host) query(ctx context.Context, s *socket, server netip.AddrPort) (netip.AddrPort, error) {
	var id stunmsg.ID
	rand.Read(id[:]) // never fails
	reply := make(chan answer, 1)
	h.table.expect(id, transaction{answer: reply})
	defer h.table.forget(id)
	request := stunmsg.Request(id)
	rto := time.NewTimer(0)
	defer rto.Stop()
	for wait := firstRTO; ; wait *= 2 {
		select {
		case <-ctx.Done():
			return netip.AddrPort{}, context.Cause(ctx)
		case <-rto.C:
			if err := s.send(request, len(request), server); err != nil {
				return netip.AddrPort{}, fmt.Errorf("ask stun server %v: %w", server, err)
			}
			rto.Reset(wait)
		case r := <-reply:
			if r.typ != stunmsg.BindingSuccess || r.from != server || r.mapped.Addr().Is6() != s.v6 ||
				!usableRemote(r.mapped, h.cfg.Loopback) {
				return netip.AddrPort{}, fmt.Errorf("ask stun server %v: %w", server, errSTUN)
			}
			if stunmsg.Behind(server.Addr(), r.mapped.Addr()) {
				err := fmt.Errorf("the STUN server %v stands behind a NAT or a proxy of its own: it sees this machine at %v", server, r.mapped.Addr())
				h.log.Warn("a server that cannot tell the public address", "err", err)
				h.mu.Lock()
				h.blind = err.Error()
				h.mu.Unlock()
				return netip.AddrPort{}, err
			}
			return r.mapped, nil
		}
	}
}

// resolve returns the addresses of a server, at most one for each family: invalid if it has none.
func resolve(ctx context.Context, server string) (out [2]netip.AddrPort, err error) {
	host, service, err := net.SplitHostPort(server)
	if err != nil {
		return out, fmt.Errorf("stun server %q: %w", server, err)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 {
		return out, fmt.Errorf("stun server %q: no port number", server)
	}
	addrs := []netip.Addr{}
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, a)
	} else if addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
		return out, fmt.Errorf("stun server %q: %w", server, err)
	}
	for _, a := range addrs {
		a = a.Unmap()
		i := 0
		if a.Is6() {
			i = 1
		}
		if !out[i].IsValid() {
			out[i] = netip.AddrPortFrom(a, uint16(port))
		}
	}
	return out, nil
}

// Blind says of a STUN server that cannot see this host's public address, or "" if none was found.
func (h *Host) Blind() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.blind
}
