package relay

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun"

	"adit/internal/stunmsg"
)

func FuzzMessage(f *testing.F) {
	key := longTermKey("u", realm, "p")
	for _, method := range []uint16{methodAllocate, methodRefresh, methodSend, methodCreatePermission, methodChannelBind} {
		for _, class := range []uint16{classRequest, classIndication, classSuccess} {
			b := answer(nil, &message{method: method}, class)
			transportUDP(&b)
			number(stunmsg.MinChannel)(&b)
			peerAttr(netip.MustParseAddrPort("127.0.0.1:9"))(&b)
			peerAttr(netip.MustParseAddrPort("[2001:db8::1]:9"))(&b)
			b.attr(attrData, []byte("hello"))
			b.attr(stunmsg.Username, []byte("1:x"))
			b.attr(attrEvenPort, []byte{0x80})
			f.Add(b.done(&key))
		}
	}
	f.Add([]byte{0x40, 0, 0, 2, 'h', 'i'})
	f.Fuzz(func(t *testing.T, packet []byte) {
		var m message
		if parse(packet, &m) {
			other := &stun.Message{Raw: bytes.Clone(packet)}
			if err := other.Decode(); err != nil {
				t.Fatalf("%x: another reader says %v", packet, err)
			}
			if m.integrityAt != 0 && !m.bad {
				// Both must find the same MAC over the same bytes.
				mac := integrity(&key, packet, m.integrityAt)
				ours := bytes.Equal(mac[:], packet[m.integrityAt+4:m.integrityAt+24])
				if theirs := stun.MessageIntegrity(key[:]).Check(other) == nil; ours != theirs {
					t.Fatalf("%x: integrity %v, another reader says %v", packet, ours, theirs)
				}
			}
		}
		// The server survives it, from somebody who holds an allocation too.
		s, err := NewTURN(TURNConfig{Secret: secret})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		c := client{addr: netip.MustParseAddrPort("192.0.2.1:5"), local: netip.MustParseAddr("127.0.0.1"), sock: new(socket)}
		conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		a := newAllocation(s, &c, "1:x", conn, conn.LocalAddr().(*net.UDPAddr).AddrPort(), time.Now())
		s.mu.Lock()
		s.allocations[c.key()] = a
		s.mu.Unlock()
		data := append(make([]byte, headroom, headroom+len(packet)+padding), packet...)
		var out [maxAnswer]byte
		if r := s.packet(&c, data, out[:], nil); len(r) > 0 && (&stun.Message{Raw: r}).Decode() != nil {
			t.Fatalf("%x is answered with %x", packet, r)
		}
		if parse(packet, &m) { // as if it were signed
			r := answer(out[:], &m, classSuccess)
			s.serve(&c, &m, "1:x", time.Now(), &r)
		}
		s.mu.Lock()
		delete(s.allocations, c.key())
		s.mu.Unlock()
	})
}
