package punch

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRefusals: the kernel at an address says that nobody has the port. That is counted, and what else the socket
// sends and receives meanwhile is not disturbed.
func TestRefusals(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run(ip, func(t *testing.T) {
			h, err := Listen(Config{Loopback: true})
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			peer, err := net.ListenPacket("udp", net.JoinHostPort(ip, "0"))
			if err != nil {
				t.Skip("no such family here:", err)
			}
			defer peer.Close()
			dead, err := net.ListenPacket("udp", net.JoinHostPort(ip, "0"))
			if err != nil {
				t.Fatal(err)
			}
			to := dead.LocalAddr().(*net.UDPAddr).AddrPort()
			good := peer.LocalAddr().(*net.UDPAddr).AddrPort()
			came := make(chan []byte, 1024)
			h.SetHandler(func(b []byte, segment int, _ netip.AddrPort) { came <- bytes.Clone(b) })
			sent := []byte("\x80 is what we sent")
			mine := h.WatchRefusals(to, func(head []byte) bool { return bytes.Equal(head, sent) })
			foreign := h.WatchRefusals(to, func([]byte) bool { return false })
			other := h.WatchRefusals(good, func([]byte) bool { return true })
			if mine == nil {
				t.Fatal("this system does not tell")
			}
			if err := h.Send(sent, len(sent), to); err != nil || mine.Count() != 0 {
				t.Errorf("somebody has the port: %d refusals, %v", mine.Count(), err)
			}
			dead.Close()
			const n = 200
			b := make([]byte, 2000)
			run := bytes.Repeat([]byte{0x81}, 4*100)
			for i := range n {
				if err := h.Send(sent, len(sent), to); err != nil {
					t.Fatalf("send %d where nobody is: %v", i, err)
				}
				if i%2 == 0 {
					err = h.Send(run[:100], 100, good)
				} else {
					err = h.Send(run, 100, good) // many at once
				}
				if err != nil {
					t.Fatalf("send %d beside it: %v", i, err)
				}
				for range 1 + i%2*3 {
					peer.SetReadDeadline(time.Now().Add(5 * time.Second))
					if _, _, err := peer.ReadFrom(b); err != nil {
						t.Fatalf("round %d, at the peer: %v", i, err)
					}
				}
				if _, err := peer.WriteTo([]byte("\x80 answers"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(good.Addr(), uint16(h.Port())))); err != nil {
					t.Fatal(err)
				}
			}
			for got := 0; got < n*len("\x80 answers"); {
				select {
				case b := <-came:
					got += len(b)
				case <-time.After(5 * time.Second):
					t.Fatalf("%d bytes came from the peer", got)
				}
			}
			if mine.Count() == 0 || foreign.Count() != 0 || other.Count() != 0 {
				t.Errorf("refusals: %d, of other datagrams %d, of another port %d", mine.Count(), foreign.Count(), other.Count())
			}
			t.Logf("%d refusals of %d", mine.Count(), n)
			before := mine.Count()
			for _, r := range []*Refusals{mine, foreign, other, mine, nil} {
				r.Close()
			}
			if err := h.Send(sent, len(sent), to); err != nil || mine.Count() != before {
				t.Errorf("counted after the end, or told: %v", err)
			}
		})
	}
}

// errorMessage makes the control message of an error.
func errorMessage(level, typ int, origin, icmp, code byte, offender []byte) []byte {
	b := make([]byte, unix.CmsgSpace(extendedErr+len(offender)))
	setCmsg(b, int32(level), int32(typ), extendedErr+len(offender))
	data := b[unix.CmsgLen(0):]
	data[4], data[5], data[6] = origin, icmp, code
	copy(data[extendedErr:], offender)
	return b
}

func TestPortUnreachable(t *testing.T) {
	v4 := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
	v4 = append(v4, 0, 0, 192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0)
	ip := netip.MustParseAddr("2001:db8::7").As16()
	v6 := append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET6), make([]byte, 6)...)
	v6 = append(append(v6, ip[:]...), 0, 0, 0, 0)
	const i4, i6 = unix.IPPROTO_IP, unix.IPPROTO_IPV6
	good := errorMessage(i4, unix.IP_RECVERR, unix.SO_EE_ORIGIN_ICMP, 3, 3, v4)
	for name, test := range map[string]struct {
		oob  []byte
		want string
	}{
		"port, IPv4":          {good, "192.0.2.7"},
		"port, IPv6":          {errorMessage(i6, unix.IPV6_RECVERR, unix.SO_EE_ORIGIN_ICMP6, 1, 4, v6), "2001:db8::7"},
		"behind another":      {append(errorMessage(i4, unix.IP_TTL, 0, 0, 0, nil), good...), "192.0.2.7"},
		"host unreachable":    {errorMessage(i4, unix.IP_RECVERR, unix.SO_EE_ORIGIN_ICMP, 3, 1, v4), ""},
		"prohibited":          {errorMessage(i4, unix.IP_RECVERR, unix.SO_EE_ORIGIN_ICMP, 3, 13, v4), ""},
		"time exceeded":       {errorMessage(i4, unix.IP_RECVERR, unix.SO_EE_ORIGIN_ICMP, 11, 3, v4), ""},
		"of this machine":     {errorMessage(i4, unix.IP_RECVERR, unix.SO_EE_ORIGIN_LOCAL, 3, 3, v4), ""},
		"no route, IPv6":      {errorMessage(i6, unix.IPV6_RECVERR, unix.SO_EE_ORIGIN_ICMP6, 1, 0, v6), ""},
		"prohibited, IPv6":    {errorMessage(i6, unix.IPV6_RECVERR, unix.SO_EE_ORIGIN_ICMP6, 1, 1, v6), ""},
		"without an offender": {errorMessage(i4, unix.IP_RECVERR, unix.SO_EE_ORIGIN_ICMP, 3, 3, nil), ""},
		"a short one":         {errorMessage(i6, unix.IPV6_RECVERR, unix.SO_EE_ORIGIN_ICMP6, 1, 4, v6[:12]), ""},
		"cut":                 {good[:unix.CmsgLen(3)], ""},
		"empty":               {nil, ""},
	} {
		by, ok := portUnreachable(test.oob)
		got := ""
		if ok {
			got = by.String()
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func FuzzPortUnreachable(f *testing.F) {
	f.Add(errorMessage(unix.IPPROTO_IP, unix.IP_RECVERR, unix.SO_EE_ORIGIN_ICMP, 3, 3, make([]byte, 16)))
	f.Add(errorMessage(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.SO_EE_ORIGIN_ICMP6, 1, 4, make([]byte, 28)))
	f.Fuzz(func(t *testing.T, oob []byte) {
		if by, ok := portUnreachable(oob); ok && !by.IsValid() {
			t.Error("from nobody: " + strconv.Itoa(len(oob)))
		}
	})
}
