package stunmsg

import "net/netip"

var shared = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

// Behind reports whether an answer shows that the server stands behind a NAT or a proxy of its own that hides its
// clients: asked at an address of the internet, it saw one that no packet on the internet comes from.
func Behind(server, mapped netip.Addr) bool {
	return public(server) && !public(mapped)
}

func public(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsGlobalUnicast() && !a.IsPrivate() && !shared.Contains(a)
}
