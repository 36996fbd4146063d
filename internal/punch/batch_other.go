//go:build !linux

package punch

import (
	"net"
	"net/netip"
)

// A batch reads and writes datagrams one by one on systems without UDP_GRO, UDP_SEGMENT, recvmmsg and
// sendmmsg. The poller wakes the socket's reader, which calls the handler inline; batch_linux.go tells
// the rest.
type batch struct {
	conn *net.UDPConn
}

func (b *batch) init(c *net.UDPConn) error {
	b.conn = c
	return nil
}

// A reader receives for one goroutine.
type reader struct {
	conn *net.UDPConn
	buf  []byte
	runs [1]run
}

func (b *batch) reader() *reader {
	return &reader{conn: b.conn, buf: make([]byte, 64<<10)}
}

// read waits for a datagram and returns it as a run, valid until it is called again. There may be
// none.
func (r *reader) read() ([]run, error) {
	n, from, err := r.conn.ReadFromUDPAddrPort(r.buf)
	if err != nil || n == 0 {
		return nil, err
	}
	r.runs[0] = run{r.buf[:n], n, from}
	return r.runs[:], nil
}

func (b *batch) send(p []byte, segment int, to netip.AddrPort) error {
	return sendEach(b.conn, p, segment, to)
}

// sendNear would have to change the hop limit of the whole socket: the datagram goes all the way.
func (b *batch) sendNear(p []byte, _ int, to netip.AddrPort) error {
	return b.send(p, len(p), to)
}

// offload says that there are no runs here.
func (*batch) offload() (send, receive bool) { return false, false }
