package link_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"adit/internal/link"
)

// A gsoSocket sends and receives many datagrams in a call (UDP_SEGMENT, UDP_GRO).
type gsoSocket struct {
	*udpSocket
	oob []byte // the run goroutine of the one link
}

func newGSO(t testing.TB, buffer int) *gsoSocket {
	s := &gsoSocket{udpSocket: newUDP(t, buffer)}
	raw, err := s.c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1); err != nil {
			t.Skipf("UDP_GRO: %v", err)
		}
	})
	s.oob = make([]byte, unix.CmsgSpace(2))
	binary.NativeEndian.PutUint64(s.oob, uint64(unix.CmsgLen(2)))
	binary.NativeEndian.PutUint32(s.oob[8:], unix.IPPROTO_UDP)
	binary.NativeEndian.PutUint32(s.oob[12:], unix.UDP_SEGMENT)
	return s
}

func (s *gsoSocket) Send(b []byte, segment int, to netip.AddrPort) error {
	if segment >= len(b) {
		return s.udpSocket.Send(b, segment, to)
	}
	binary.NativeEndian.PutUint16(s.oob[unix.CmsgLen(0):], uint16(segment))
	for most := 65000 / segment * segment; len(b) > 0; {
		n := min(most, len(b))
		if _, _, err := s.c.WriteMsgUDPAddrPort(b[:n], s.oob, to); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (s *gsoSocket) serve(m *link.Mux) {
	s.wg.Go(func() {
		buf, oob := make([]byte, 1<<16), make([]byte, 64)
		for {
			n, on, _, from, err := s.c.ReadMsgUDPAddrPort(buf, oob)
			if err != nil {
				return
			}
			segment := n
			if on >= unix.CmsgLen(2) {
				segment = int(binary.NativeEndian.Uint16(oob[unix.CmsgLen(0):]))
			}
			m.Deliver(buf[:n], segment, from)
		}
	})
}

func BenchmarkGSO(b *testing.B) {
	for _, buffer := range []int{0, 4 << 20} {
		b.Run(fmt.Sprintf("gso-%d", buffer), func(b *testing.B) {
			benchmark(b, newGSO(b, buffer), newGSO(b, buffer), buffer)
		})
	}
}
