package punch

import (
	"net/netip"

	"adit/internal/uplink"
)

// usableRemote reports whether a peer may ask for checks to be sent to a. Each check is a packet to
// an address that the peer chose (RFC 8445 §19.5.1), so nothing that could reach more than one
// machine, or this one, is taken.
func usableRemote(a netip.AddrPort, loopback bool) bool {
	return a.Port() != 0 && uplink.UsableAddr(a.Addr(), loopback)
}

// localAddrs returns the usable addresses of the interfaces that are up, in the system's order.
func localAddrs(loopback bool) ([]netip.Addr, error) {
	nets, err := uplink.Nets(loopback)
	var out []netip.Addr
	for _, n := range nets {
		out = append(out, n.Addr())
	}
	return out, err
}
