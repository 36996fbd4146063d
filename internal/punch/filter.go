package punch

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

// usableInterface reports whether the addresses of an interface can be candidates.
func usableInterface(name string, flags net.Flags, loopback bool) bool {
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

// usableAddr reports whether an address of this machine can be a candidate.
func usableAddr(a netip.Addr, loopback bool) bool {
	switch {
	case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast():
		return false
	case a.IsLoopback():
		return loopback
	}
	return a != broadcast
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// usableRemote reports whether a peer may ask for checks to be sent to a. Each check is a packet to
// an address that the peer chose (RFC 8445 §19.5.1), so nothing that could reach more than one
// machine, or this one, is taken.
func usableRemote(a netip.AddrPort, loopback bool) bool {
	return a.Port() != 0 && usableAddr(a.Addr(), loopback)
}

// localAddrs returns the usable addresses of the interfaces that are up, in the system's order.
func localAddrs(loopback bool) ([]netip.Addr, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, i := range ifs {
		if !usableInterface(i.Name, i.Flags, loopback) {
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
			if ip, ok := netip.AddrFromSlice(n.IP); ok && usableAddr(ip.Unmap(), loopback) {
				out = append(out, ip.Unmap())
			}
		}
	}
	return out, nil
}
