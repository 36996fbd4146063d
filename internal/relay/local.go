package relay

import (
	"fmt"
	"net"
	"net/netip"
)

// local is what is known of this machine's networks. The maps are not to be changed.
type local struct {
	addrs map[netip.Addr]bool
	// broadcasts are the last address of each IPv4 network that an interface is in, and the first, which older
	// systems take for it.
	broadcasts map[netip.Addr]bool
}

// listLocal lists this machine's addresses. It fails where the system has no way to ask, or file descriptors are
// short.
func listLocal() (local, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return local{}, fmt.Errorf("list the addresses of this machine: %w", err)
	}
	var nets []netip.Prefix
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if ip, ok := netip.AddrFromSlice(n.IP); ok {
			ip = ip.Unmap()
			bits, size := n.Mask.Size()
			if bits -= size - ip.BitLen(); size == 0 || bits < 0 { // no mask of this family: of the address alone
				bits = ip.BitLen()
			}
			nets = append(nets, netip.PrefixFrom(ip, bits))
		}
	}
	return localOf(nets), nil
}

// localOf returns what is known from addresses with the sizes of their networks.
func localOf(nets []netip.Prefix) local {
	l := local{addrs: make(map[netip.Addr]bool), broadcasts: make(map[netip.Addr]bool)}
	for _, n := range nets {
		l.addrs[n.Addr()] = true
		if !n.Addr().Is4() || n.Bits() > 30 {
			continue // there is none (RFC 3021)
		}
		first := n.Masked().Addr()
		last := first.As4()
		for i := range last {
			last[i] |= byte(0xff >> min(8, max(0, n.Bits()-8*i)))
		}
		l.broadcasts[first], l.broadcasts[netip.AddrFrom4(last)] = true, true
	}
	for ip := range l.addrs {
		delete(l.broadcasts, ip) // of another network, say
	}
	return l
}
