// Package nat64 lets a machine without IPv4 reach IPv4 addresses where the network translates them
// (NAT64, RFC 6146): it finds the prefix behind which the IPv4 internet is (RFC 7050) and puts addresses
// into it (RFC 6052). Who asks by name has that done by the resolver (DNS64); this is for addresses.
//
// Errors: [ErrNone].
package nat64

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// ErrNone says that there is no NAT64 here, or none that tells of itself.
var ErrNone = errors.New("no NAT64 in this network")

// name is a name that has IPv4 addresses alone, those of wellKnown. An answer with IPv6 addresses was made
// by a DNS64, and shows its prefix (RFC 7050 §3).
const name = "ipv4only.arpa."

var wellKnown = [2]netip.Addr{netip.AddrFrom4([4]byte{192, 0, 0, 170}), netip.AddrFrom4([4]byte{192, 0, 0, 171})}

// lengths are those that a prefix may have (RFC 6052 §2.2), the usual one first.
var lengths = [...]int{96, 64, 56, 48, 40, 32}

// Discover asks the system's resolver for the network's prefix. It costs a round trip to it, and is bounded by
// ctx alone. Errors: ErrNone, or what went wrong on the way.
func Discover(ctx context.Context) (netip.Prefix, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip6", name)
	if err != nil {
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound {
			err = ErrNone
		}
		return netip.Prefix{}, fmt.Errorf("ask for the prefix of a NAT64: %w", err)
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a); ok {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("ask for the prefix of a NAT64: %w", ErrNone)
}

// prefixOf returns the prefix behind which an address has one of the well-known ones. The resolver may lie:
// what leads nowhere, or to one machine alone, is not taken.
func prefixOf(a netip.Addr) (netip.Prefix, bool) {
	if !a.Is6() || a.Is4In6() || !a.IsGlobalUnicast() {
		return netip.Prefix{}, false
	}
	a = a.WithZone("")
	for _, n := range lengths {
		p := netip.PrefixFrom(a, n).Masked()
		if v4, ok := Extract(p, a); ok && (v4 == wellKnown[0] || v4 == wellKnown[1]) && Synthesize(p, v4) == a {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Synthesize returns the IPv6 address that stands for an IPv4 address behind a prefix, which must be one
// that Discover returned. The zero Addr stands for anything but IPv4.
func Synthesize(p netip.Prefix, v4 netip.Addr) netip.Addr {
	v4 = v4.Unmap()
	if !v4.Is4() || !p.IsValid() {
		return netip.Addr{}
	}
	out, in := p.Addr().As16(), v4.As4()
	at := p.Bits() / 8
	for _, b := range in {
		if at == 8 {
			at++ // bits 64 to 71 are zero (RFC 6052 §2.2)
		}
		out[at] = b
		at++
	}
	return netip.AddrFrom16(out)
}

// Extract returns the IPv4 address that an IPv6 address stands for; false says that it is not behind the
// prefix.
func Extract(p netip.Prefix, a netip.Addr) (netip.Addr, bool) {
	if !p.IsValid() || !a.Is6() || !p.Contains(a.WithZone("")) {
		return netip.Addr{}, false
	}
	raw := a.As16()
	var v4 [4]byte
	at := p.Bits() / 8
	for i := range v4 {
		if at == 8 {
			at++
		}
		v4[i] = raw[at]
		at++
	}
	return netip.AddrFrom4(v4), true
}
