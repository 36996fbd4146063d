package portmap

import (
	"context"
	"net"
	"net/netip"
)

// announceGroup is where routers tell that they have restarted or have another address (RFC 6887 §14.1.1,
// RFC 6886 §3.2.1).
var announceGroup = net.UDPAddr{IP: net.IPv4(224, 0, 0, 1), Port: 5350}

// listen calls heard for each announcement of the gateway until ctx ends. Where the port cannot be had,
// checks find the same somewhat later.
func listen(ctx context.Context, gateway netip.Addr, heard func()) {
	c, err := net.ListenMulticastUDP("udp4", nil, &announceGroup)
	if err != nil {
		return
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	b := make([]byte, 1100)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if from.Addr().Unmap() == gateway && announces(b[:n]) {
			heard()
		}
	}
}

// announces reports whether b is an announcement of PCP or NAT-PMP.
func announces(b []byte) bool {
	if code, _, ok := parsePCP(b, pcpAnnounce); ok {
		return code == 0
	}
	code, ok := parsePMP(b, pmpAddress, 12)
	return ok && code == 0
}
