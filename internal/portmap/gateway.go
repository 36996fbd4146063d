package portmap

import (
	"fmt"
	"net/netip"

	"github.com/jackpal/gateway"
)

// defaultGateway returns the router of the default IPv4 route.
func defaultGateway() (netip.Addr, error) {
	ip, err := gateway.DiscoverGateway()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%w: %w", ErrGateway, err)
	}
	a, ok := netip.AddrFromSlice(ip)
	if a = a.Unmap(); !ok || !a.Is4() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
		return netip.Addr{}, ErrGateway
	}
	return a, nil
}
