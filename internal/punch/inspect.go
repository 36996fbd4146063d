package punch

import (
	"net"
	"net/netip"

	"adit/internal/uplink"
)

// An Interface is one of this machine's that is up, with the addresses that peers are told, or that they
// are not told.
type Interface struct {
	Name  string
	Addrs []netip.Addr // usable ones: no link-local ones
	Used  bool         // its addresses are candidates
}

// Interfaces returns those that are up and have an address, in the system's order. Loopback is left out
// unless it is to be used.
func Interfaces(loopback bool) ([]Interface, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []Interface
	for _, i := range ifs {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 && !loopback {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // the interface went away since
		}
		f := Interface{Name: i.Name, Used: uplink.UsableInterface(i.Name, i.Flags, loopback)}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			if ip, ok := netip.AddrFromSlice(n.IP); ok && uplink.UsableAddr(ip.Unmap(), loopback) {
				f.Addrs = append(f.Addrs, ip.Unmap())
			}
		}
		if len(f.Addrs) > 0 {
			out = append(out, f)
		}
	}
	return out, nil
}

// RouteSource returns the address that packets to the internet leave from, over IPv4 or IPv6; false if there is no
// route. It sends nothing.
func RouteSource(v6 bool) (netip.Addr, bool) { return uplink.Source(v6) }

// DontFragment makes the system send each datagram of a socket whole or not at all, and reports whether
// that worked: see [Host.DontFragment].
func DontFragment(c *net.UDPConn, v6 bool) bool { return dontFragment(c, v6) }

// PortStep returns the step of a NAT that gave its new mappings ports in this order, 0 for one that was
// not told, or 0 if there is no pattern.
func PortStep(ports []uint16) int { return step(ports) }

// Offload reports whether the system sends (UDP_SEGMENT) and receives (UDP_GRO) many datagrams in one
// call on this Host's sockets: Linux only.
func (h *Host) Offload() (send, receive bool) {
	for _, s := range h.socks {
		if s != nil {
			return s.batch.offload()
		}
	}
	return false, false
}
