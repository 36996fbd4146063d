package portmap

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// An epoch is the clock of a router that counts the seconds since it last forgot its mappings. The zero value
// has not seen it yet.
type epoch struct {
	seen    bool
	at      time.Time
	seconds uint32
}

// restarted takes in what the router's clock shows and reports whether the router has forgotten its mappings
// since the last time: its clock went back, or has another distance from ours (RFC 6887 §8.5). NAT-PMP's rule
// (RFC 6886 §3.6) is laxer; to be asked once too often does a router no harm.
func (e *epoch) restarted(now time.Time, seconds uint32) bool {
	was := *e
	*e = epoch{true, now, seconds}
	if !was.seen {
		return false
	}
	theirs := int64(seconds) - int64(was.seconds)
	ours := int64(now.Sub(was.at) / time.Second)
	return theirs < -1 || ours+2 < theirs-theirs/16 || theirs+2 < ours-ours/16
}

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
