package relay

import (
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// A socket reads and writes packets, each with the local address it came to: on a machine with several
// addresses an answer from another one would not pass the client's NAT. One goroutine may read, and any
// may write.
type socket struct {
	conn *net.UDPConn
	is6  bool
	v4   bool // control messages work, of IPv4
	v6   bool // or of IPv6

	// For the reader.
	in  [128]byte // control message
	cm4 ipv4.ControlMessage
	cm6 ipv6.ControlMessage
}

func newSocket(c *net.UDPConn) *socket {
	local := c.LocalAddr().(*net.UDPAddr)
	k := &socket{conn: c, is6: local.IP.To4() == nil}
	if !local.IP.IsUnspecified() {
		return k // there is only one address
	}
	if local.IP.To4() != nil {
		k.v4 = ipv4.NewPacketConn(c).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true) == nil
	} else {
		k.v6 = ipv6.NewPacketConn(c).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true) == nil
	}
	return k
}

// destination is where a packet came to, as far as the system tells.
type destination struct {
	ip      netip.Addr
	ifIndex int
}

func (k *socket) read(b []byte) (n int, from netip.AddrPort, to destination, err error) {
	if !k.v4 && !k.v6 {
		n, from, err = k.conn.ReadFromUDPAddrPort(b)
		to.ip = k.conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	} else {
		var noob int
		n, noob, _, from, err = k.conn.ReadMsgUDPAddrPort(b, k.in[:])
		switch {
		case err != nil:
		case k.v4 && k.cm4.Parse(k.in[:noob]) == nil:
			to.ip, _ = netip.AddrFromSlice(k.cm4.Dst)
			to.ifIndex = k.cm4.IfIndex
		case k.v6 && k.cm6.Parse(k.in[:noob]) == nil:
			to.ip, _ = netip.AddrFromSlice(k.cm6.Dst)
			to.ifIndex = k.cm6.IfIndex
		}
	}
	if to.ip = to.ip.Unmap().WithZone(""); to.ip.IsUnspecified() {
		to.ip = netip.Addr{}
	}
	return n, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), to, err
}

// control returns the control message that sends from an address: nil if the system chooses; false if
// nothing is to be sent from it.
func (k *socket) control(to destination) ([]byte, bool) {
	switch {
	case !to.ip.IsValid():
		return nil, true
	case to.ip.IsMulticast() || to.ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return nil, false // one request shall not make a whole network answer
	case k.v4:
		return (&ipv4.ControlMessage{Src: to.ip.AsSlice()}).Marshal(), true
	case k.v6:
		cm := &ipv6.ControlMessage{Src: to.ip.AsSlice()}
		if to.ip.IsLinkLocalUnicast() {
			cm.IfIndex = to.ifIndex
		}
		return cm.Marshal(), true
	}
	return nil, true
}

// write sends a response. A client that does not get it asks again, so errors do not matter.
func (k *socket) write(b []byte, from netip.AddrPort, to destination) {
	if oob, ok := k.control(to); ok {
		k.writeFrom(b, from, oob)
	}
}

// writeFrom sends a packet with what control returned.
func (k *socket) writeFrom(b []byte, to netip.AddrPort, oob []byte) {
	if oob == nil {
		_, _ = k.conn.WriteToUDPAddrPort(b, to)
		return
	}
	_, _, _ = k.conn.WriteMsgUDPAddrPort(b, oob, to)
}
