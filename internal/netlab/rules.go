package netlab

import (
	"fmt"
	"strings"
)

// Linux itself is a port-restricted NAT: masquerading keeps the inner port where it can and conntrack
// lets in only answers. With fully-random it takes another port for every destination. A full cone
// needs a map from each port in use to its owner, so that strangers' packets find it too; this works
// because one LAN here has few hosts, which do not fight for the same port.
//
// The input chain drops silently what nobody asked for. Without it a packet that arrives before the
// host's own left would get a conntrack entry that takes the port away, and the host's mapping would
// come out with another port. Such routers exist, but they would falsify every other test.
const routerRules = `
table ip nat {
	map cone { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 2m; size 65535; }
	set seen { type inet_service . ipv4_addr; flags dynamic,timeout; timeout 2m; size 65535; }
	chain learn { type filter hook forward priority -10; policy accept;
		LEARN
	}
	chain pre { type nat hook prerouting priority dstnat; policy accept;
		LET IN
	}
	chain post { type nat hook postrouting priority srcnat; policy accept;
		oifname "wan" MASQUERADE
	}
}
table inet filter {
	chain input { type filter hook input priority 0; policy drop;
		iifname { "lo", "lan" } accept
		ct state established,related accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
	}
	chain forward { type filter hook forward priority 0; policy accept;
		BLOCK
		ct status dnat accept
		iifname "wan" ct state new drop
	}
}
`

// rules returns the nft rules of a router.
func rules(kind NAT) string {
	const (
		learnCone = `iifname "lan" oifname "wan" meta l4proto udp update @cone { udp sport : ip saddr . udp sport }`
		learnSeen = `iifname "lan" oifname "wan" meta l4proto udp update @seen { udp sport . ip daddr }`
	)
	part := map[string]string{"LEARN": "", "LET IN": "", "MASQUERADE": "masquerade", "BLOCK": ""}
	switch kind {
	case FullCone:
		part["LEARN"] = learnCone
		part["LET IN"] = `iifname "wan" meta l4proto udp dnat ip to udp dport map @cone`
	case AddressRestricted:
		part["LEARN"] = learnCone + "\n\t\t" + learnSeen
		part["LET IN"] = `iifname "wan" udp dport . ip saddr @seen dnat ip to udp dport map @cone`
	case Symmetric:
		part["MASQUERADE"] = "masquerade fully-random"
	case SymmetricSequential:
		part["MASQUERADE"] = "meta l4proto udp masquerade to :" + sequence() + "\n\t\toifname \"wan\" masquerade"
	case UDPBlocked:
		part["BLOCK"] = "meta l4proto udp drop"
	}
	out := routerRules
	for name, text := range part {
		out = strings.ReplaceAll(out, name, text)
	}
	return out
}

// sequence is an expression that counts mappings and gives each the next port. Without the map it would
// count in steps of 256: numgen has the byte order of the machine, ports that of the network.
func sequence() string {
	const first, ports = 40000, 2000
	list := make([]string, ports)
	for i := range list {
		list[i] = fmt.Sprintf("%d : %d", i, first+i)
	}
	return fmt.Sprintf("numgen inc mod %d map { %s }", ports, strings.Join(list, ", "))
}

// Narrow has the line between the router of a host and the internet carry IP packets of at most so many bytes, and
// nobody tells: ICMP is dropped on it, and the far end swallows what is too large.
func (h *Host) Narrow(mtu int) {
	l := h.lab
	l.t.Helper()
	if h.router == "" {
		l.t.Fatalf("netlab: %s is not behind a router", h.name)
	}
	// Of what the kernel puts together for one large segment the MTU is not checked.
	l.ip("-n", h.router, "link", "set", "wan", "mtu", fmt.Sprint(mtu), "gso_max_segs", "1")
	l.ip("-n", l.inet, "link", "set", fmt.Sprintf("site%d", h.site), "mtu", fmt.Sprint(mtu), "gso_max_segs", "1")
	l.run(`
table inet narrow {
	chain out { type filter hook output priority 0; policy accept; icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }
	chain forward { type filter hook forward priority 0; policy accept; icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }
}
`, "ip", "netns", "exec", h.router, "nft", "-f", "-")
}
