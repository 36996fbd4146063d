// Package uplink knows by which of its addresses this machine may send to the internet.
package uplink

import (
	"net"
	"net/netip"
	"strings"
)

// internalPrefixes start the names of interfaces that lead to containers and virtual machines on
// this machine only: nobody else can reach their addresses, and every one of them costs the peer
// checks. Plain veth interfaces are not among them, because inside a container or namespace they
// are the way out.
var internalPrefixes = []string{
	"docker", "virbr", "cni", "flannel", "cali", "lxcbr", "lxdbr", "podman", "vmnet", "vboxnet",
}

// UsableInterface reports whether the addresses of an interface can be candidates.
func UsableInterface(name string, flags net.Flags, loopback bool) bool {
	if flags&net.FlagUp == 0 {
		return false
	}
	if flags&net.FlagLoopback != 0 {
		return loopback
	}
	for _, p := range internalPrefixes {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	return !isDockerBridge(name)
}

// isDockerBridge reports whether name is that of a bridge of a Docker network: br- and the first
// twelve digits of the network's id. Other bridges that start so carry a machine's real addresses
// (br-lan of OpenWrt, br-ex of OpenStack).
func isDockerBridge(name string) bool {
	id, ok := strings.CutPrefix(name, "br-")
	return ok && len(id) == 12 && strings.Trim(id, "0123456789abcdef") == ""
}

// UsableAddr reports whether an address of this machine can be a candidate.
func UsableAddr(a netip.Addr, loopback bool) bool {
	switch {
	case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast():
		return false
	case a.IsLoopback():
		return loopback
	}
	return a != broadcast
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// Nets returns the usable addresses of the interfaces that are up, with their networks, in the system's order.
func Nets(loopback bool) ([]netip.Prefix, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, i := range ifs {
		if !UsableInterface(i.Name, i.Flags, loopback) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // the interface went away since
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			bits, _ := n.Mask.Size()
			if ip, ok := netip.AddrFromSlice(n.IP); ok && UsableAddr(ip.Unmap(), loopback) {
				out = append(out, netip.PrefixFrom(ip.Unmap(), bits))
			}
		}
	}
	return out, nil
}

// Source returns the address that packets to the internet have as their source. Connecting a
// UDP socket sends nothing.
func Source(v6 bool) (netip.Addr, bool) {
	far := "192.0.2.1:9" // RFC 5737
	if v6 {
		far = "[2001:db8::1]:9" // RFC 3849
	}
	c, err := net.Dial(map[bool]string{false: "udp4", true: "udp6"}[v6], far)
	if err != nil {
		return netip.Addr{}, false
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), true
}

// Ways returns the addresses, one for each network, from which packets may leave elsewhere than by the main
// route: those in other networks than its source. Addresses that no STUN server can see are left out.
func Ways(nets []netip.Prefix, source func(v6 bool) netip.Addr) []netip.Addr {
	var out []netip.Addr
	seen := make(map[netip.Prefix]bool)
	for _, v6 := range []bool{false, true} {
		main := source(v6)
		for _, n := range nets {
			if n.Contains(main) {
				seen[n.Masked()] = true
			}
		}
	}
	for _, n := range nets {
		a := n.Addr()
		ula := a.Is6() && a.IsPrivate()
		if a.IsLoopback() || ula || seen[n.Masked()] {
			continue
		}
		seen[n.Masked()] = true
		out = append(out, a)
	}
	return out
}

// Others returns the addresses, three at most, from which packets may leave elsewhere than by the main route.
func Others() []netip.Addr {
	nets, err := Nets(false)
	if err != nil {
		return nil
	}
	out := Ways(nets, func(v6 bool) netip.Addr { a, _ := Source(v6); return a })
	return out[:min(len(out), 3)]
}
