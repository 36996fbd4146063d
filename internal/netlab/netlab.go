// Package netlab makes networks for tests of real programs.
//
// A [Lab] is made of Linux network namespaces: public hosts on an "internet", hosts behind NAT routers
// made of nftables rules, and emulated links. It needs root, iproute2 and nftables, and skips the test
// elsewhere. Nothing of it touches the system's own network.
//
//	 host                router (nft)            internet                       public host
//	+------+           +-----+-----+         +---------------+                +------+
//	| eth0 |-- veth ---| lan | wan |--uplink-| br0 .1        |--- veth -------| eth0 |
//	+------+           +-----+-----+         +---------------+                +------+
//	192.168.n.2        .1    198.51.100.n+10   198.51.100.0/24, 2001:db8::/64   198.51.100.200+
//
// An uplink, and the two hosts of [Lab.Link], may be joined by a link that this process emulates
// between two TUN or TAP devices: delay, loss, rate and queue. Where none of these is asked for, the
// cable is a plain veth pair. Namespaces carry the process in their name and go away with the test;
// those of a test process that was killed go with the next one.
package netlab

import (
	"fmt"
	"time"
)

// A NAT says how a host is joined to the internet, in the words of RFC 4787: what the mapping of an
// inner address depends on, and from where packets may come in through it.
type NAT uint8

const (
	None                NAT = iota // a public address and no filter
	FullCone                       // endpoint-independent mapping and filtering
	AddressRestricted              // endpoint-independent mapping, address-dependent filtering
	PortRestricted                 // endpoint-independent mapping, address- and port-dependent filtering
	Symmetric                      // address- and port-dependent mapping (random ports) and filtering
	UDPBlocked                     // as PortRestricted for TCP; no UDP passes
	SymmetricSequential            // as Symmetric, but each mapping gets the port after the one before it
	CGNAT                          // two in a row: a home router and a carrier's, both as PortRestricted
)

func (k NAT) String() string {
	names := [...]string{"none", "full-cone", "address-restricted", "port-restricted", "symmetric", "udp-blocked",
		"symmetric-sequential", "cgnat"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("NAT(%d)", uint8(k))
}

// Connects says whether two hosts behind a and b reach each other by plain hole punching at the
// addresses a STUN server saw, with packets from new addresses answered (peer-reflexive candidates).
func Connects(a, b NAT) bool {
	if a == UDPBlocked || b == UDPBlocked {
		return false
	}
	moves := func(k NAT) bool { return k == Symmetric || k == SymmetricSequential } // its port, for each destination
	picky := func(k NAT) bool { return k == PortRestricted || k == CGNAT || moves(k) }
	return !(moves(a) && picky(b) || moves(b) && picky(a))
}

// LinkConfig describes an emulated link; both directions are alike. The zero value is a plain cable.
// A packet first waits for the rate (or is dropped, where QueueBytes wait already), then may be lost,
// and arrives after the delay. Order is kept but for Reorder.
type LinkConfig struct {
	Delay      time.Duration // one way
	Loss       float64       // probability, 0 to 1
	RateBits   int64         // bits per second of IP packets; 0 is unlimited
	Jitter     time.Duration // the delay is anything from Delay to this more, but nothing overtakes
	Reorder    float64       // probability that a packet takes an eighth of Delay longer, at least 1 ms, and is overtaken
	QueueBytes int           // what may wait for the rate; 0 is one round trip at RateBits, at least 64 KiB
}

func (c LinkConfig) queue() int {
	if c.QueueBytes > 0 {
		return c.QueueBytes
	}
	return max(64<<10, int(c.RateBits/8*2*c.Delay.Nanoseconds()/1e9))
}

// LinkStats counts the packets that one end sent into an emulated link.
type LinkStats struct {
	Packets, Bytes int64         // that entered
	Lost           int64         // by Loss
	QueueDropped   int64         // because the queue was full
	Failed         int64         // by the emulation itself: must be 0
	Late           time.Duration // the longest that a delivery came after its due time
}
