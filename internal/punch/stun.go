package punch

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"
)

const firstRTO = 250 * time.Millisecond // RFC 8489 §6.2.1 has 500 ms, doubling, for unknown paths

var errSTUN = errors.New("no usable answer")

// bindingRequestFor builds a request without attributes, which is all a public server needs.
func bindingRequestFor(id transactionID) []byte {
	b := make([]byte, stunHeader)
	binary.BigEndian.PutUint16(b, bindingRequest)
	binary.BigEndian.PutUint32(b[4:], stunCookie)
	copy(b[8:], id[:])
	return b
}

// mappedAddr returns the address in an answer, XOR-MAPPED-ADDRESS if there is one (RFC 8489 §14.2),
// else MAPPED-ADDRESS (§14.1). It may be anything a server made up.
func mappedAddr(attrs []byte, id transactionID) (netip.AddrPort, bool) {
	v, xored := stunAttr(attrs, attrXORMappedAddress)
	if !xored {
		var ok bool
		if v, ok = stunAttr(attrs, attrMappedAddress); !ok {
			return netip.AddrPort{}, false
		}
	}
	if len(v) < 4 {
		return netip.AddrPort{}, false
	}
	var key [16]byte
	if xored {
		binary.BigEndian.PutUint32(key[:], stunCookie)
		copy(key[4:], id[:])
	}
	port := binary.BigEndian.Uint16(v[2:]) ^ binary.BigEndian.Uint16(key[:])
	raw := make([]byte, 16)
	switch n := len(v) - 4; {
	case v[1] == 1 && n == 4, v[1] == 2 && n == 16:
		raw = raw[:n]
	default:
		return netip.AddrPort{}, false
	}
	for i := range raw {
		raw[i] = v[4+i] ^ key[i]
	}
	a, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), port), true
}

// query asks one server, with retransmissions until ctx ends, where the packets of s come from.
func (h *Host) query(ctx context.Context, s *socket, server netip.AddrPort) (netip.AddrPort, error) {
	var id transactionID
	rand.Read(id[:]) // never fails
	reply := make(chan answer, 1)
	h.table.expect(id, transaction{answer: reply})
	defer h.table.forget(id)
	request := bindingRequestFor(id)
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
			mapped, ok := mappedAddr(r.attrs, id)
			if !ok || r.typ != bindingSuccess || r.from != server || mapped.Addr().Is6() != s.v6 ||
				!usableRemote(mapped, h.cfg.Loopback) {
				return netip.AddrPort{}, fmt.Errorf("ask stun server %v: %w", server, errSTUN)
			}
			return mapped, nil
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
