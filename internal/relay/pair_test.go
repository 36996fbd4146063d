package relay

import (
	"net"
	"testing"
	"time"

	"github.com/pion/stun"

	"adit/internal/stunmsg"
)

// TestPair: what a client asks for with CHANGE-REQUEST, and where the answer comes from.
func TestPair(t *testing.T) {
	t.Parallel()
	a, b := start(t, "127.0.0.1:0", Config{}), start(t, "127.0.0.1:0", Config{})
	Pair(a, b)
	lone := start(t, "127.0.0.1:0", Config{})
	padding := stun.RawAttribute{Type: 0x0026, Value: make([]byte, 1472-stunmsg.HeaderBytes-4-8)}
	for _, c := range []struct {
		name string
		ask  *STUN
		flag byte
		pad  bool
		from *STUN // nil for error 420
	}{
		{"nothing", a, 0, false, a},
		{"the port", a, 2, false, b},
		{"the port of the other", b, 2, false, a},
		{"the port, padded", a, 2, true, b},
		{"the address", a, 4, false, nil},
		{"both", a, 6, false, nil},
		{"nothing, of one alone", lone, 0, false, nil},
		{"the port, of one alone", lone, 2, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			parts := []stun.Setter{stun.TransactionID, stun.BindingRequest, stun.RawAttribute{Type: stun.AttrChangeRequest, Value: []byte{0, 0, 0, c.flag}}}
			if c.pad {
				parts = append(parts, padding)
			}
			request := stun.MustBuild(parts...)
			if _, err := conn.WriteToUDPAddrPort(request.Raw, c.ask.Addr()); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			buf := make([]byte, 1500)
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatal(err)
			}
			if n > maxResponse || c.from != nil && n > len(request.Raw)+4 {
				t.Errorf("%d bytes answer %d", n, len(request.Raw))
			}
			m := &stun.Message{Raw: buf[:n]}
			if err := m.Decode(); err != nil {
				t.Fatal(err)
			}
			want := c.ask.Addr()
			if c.from != nil {
				want = c.from.Addr()
			}
			if from != want || (m.Type == stun.BindingSuccess) != (c.from != nil) {
				t.Fatalf("got %v from %v, want it from %v", m.Type, from, want)
			}
			if c.from != nil {
				if got, own := mapped(t, request, buf[:n]), conn.LocalAddr().(*net.UDPAddr).AddrPort(); got != own {
					t.Errorf("got %v, want %v", got, own)
				}
			}
		})
	}
}

// TestPairClosed: a server whose pair is closed goes on.
func TestPairClosed(t *testing.T) {
	t.Parallel()
	a, b := start(t, "127.0.0.1:0", Config{}), start(t, "127.0.0.1:0", Config{})
	Pair(a, b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	change := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.RawAttribute{Type: stun.AttrChangeRequest, Value: []byte{0, 0, 0, 2}})
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(a.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(change.Raw); err != nil {
		t.Fatal(err)
	}
	request := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
	response, own := ask(t, "udp4", a.Addr().String(), request.Raw)
	if got := mapped(t, request, response); got != own {
		t.Errorf("got %v, want %v", got, own)
	}
}
