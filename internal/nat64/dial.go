package nat64

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// A Dialer is a net.Dialer that reaches IPv4 addresses through a NAT64 where the machine has no IPv4.
type Dialer struct{ net.Dialer }

// DialContext connects as that of a net.Dialer does. If address is an IPv4 address and there is no way to
// it, it asks for the prefix of a NAT64 and tries behind that; the first error is returned if there is none.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.Dialer.DialContext(ctx, network, address)
	if err == nil || !unreachable(err) {
		return c, err
	}
	at, perr := netip.ParseAddrPort(address)
	if perr != nil || !at.Addr().Unmap().Is4() || at.Addr().IsLoopback() {
		return nil, err
	}
	p, perr := Discover(ctx)
	if perr != nil {
		return nil, err
	}
	return d.Dialer.DialContext(ctx, network, netip.AddrPortFrom(Synthesize(p, at.Addr()), at.Port()).String())
}

// unreachable reports whether the system knows no way to an address. On Windows package syscall has other
// values for these than those that the system returns.
func unreachable(err error) bool {
	const wsaenetunreach, wsaehostunreach, wsaeaddrnotavail = syscall.Errno(10051), syscall.Errno(10065), syscall.Errno(10049)
	for _, e := range []error{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EADDRNOTAVAIL, wsaenetunreach, wsaehostunreach, wsaeaddrnotavail} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
