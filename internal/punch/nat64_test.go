package punch

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// TestThroughNAT64: with a prefix for which 0.0.0.1 is ::1, an IPv4 address is reached by the IPv6 socket, and
// what comes from there comes from it.
func TestThroughNAT64(t *testing.T) {
	prefix := netip.MustParsePrefix("::/96")
	h, err := Listen(Config{Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if h.socks[1] == nil {
		t.Skip("no IPv6 here")
	}
	peer, err := listenSocket(true, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.conn.Close()
	h.through.Store(throughNAT64(h.socks[1], new(atomic.Pointer[netip.Prefix])))
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{0, 0, 0, 1}), peer.port)
	if err := h.Send([]byte("lost"), 4, to); !errors.Is(err, errNoNAT64) {
		t.Errorf("without a prefix: got %v, want %v", err, errNoNAT64)
	}
	h.through.Load().prefix.Store(&prefix)

	got := make(chan netip.AddrPort, 1)
	h.SetHandler(func(b []byte, segment int, from netip.AddrPort) { got <- from })
	if err := h.Send([]byte("hello"), 5, to); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	_ = peer.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, from, err := peer.conn.ReadFromUDPAddrPort(b)
	if err != nil || string(b[:n]) != "hello" || from.Port() != h.socks[1].port {
		t.Fatalf("got %q from %v, %v", b[:n], from, err)
	}
	if err := peer.batch.send(b[:n], n, from); err != nil {
		t.Fatal(err)
	}
	select {
	case from := <-got:
		if from != to {
			t.Errorf("from %v, want %v", from, to)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no answer")
	}
	if raceEnabled {
		return
	}
	if n := testing.AllocsPerRun(100, func() { _ = h.through.Load().send(b[:1], 1, netip.AddrPortFrom(to.Addr(), 9)) }); n > 0 {
		t.Errorf("%v allocations for a packet, want none", n)
	}
}
