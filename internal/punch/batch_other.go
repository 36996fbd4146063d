//go:build !linux

package punch

import (
	"net"
	"net/netip"
	"sync/atomic"
)

// A batch reads and writes datagrams one by one on systems without UDP_GRO and UDP_SEGMENT.
type batch struct {
	conn *net.UDPConn

	gso         atomic.Bool // never set; the tests look at it
	testOnlyGSO error
}

func (b *batch) init(c *net.UDPConn) error {
	b.conn = c
	return nil
}

func (b *batch) read(buf []byte) (n, segment int, from netip.AddrPort, err error) {
	n, from, err = b.conn.ReadFromUDPAddrPort(buf)
	return n, n, from, err
}

func (b *batch) send(p []byte, segment int, to netip.AddrPort) error {
	return sendEach(b.conn, p, segment, to)
}

// sendNear would have to change the hop limit of the whole socket: the datagram goes all the way.
func (b *batch) sendNear(p []byte, _ int, to netip.AddrPort) error {
	return b.send(p, len(p), to)
}
