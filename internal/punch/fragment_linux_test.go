package punch

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDontFragment: the sockets are set so that ICMP plays no part.
func TestDontFragment(t *testing.T) {
	h, err := Listen(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if !h.DontFragment() {
		t.Error("datagrams may be fragmented")
	}
	for i, want := range []struct{ level, name, value int }{
		{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE},
		{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE},
	} {
		if h.socks[i] == nil {
			continue
		}
		if err := h.socks[i].batch.raw.Control(func(fd uintptr) {
			if got, err := unix.GetsockoptInt(int(fd), want.level, want.name); err != nil || got != want.value {
				t.Errorf("option is %d, %v, want %d", got, err, want.value)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTooLarge: where the interface takes less, a datagram that is too large costs only itself, also in
// a run with smaller ones.
func TestTooLarge(t *testing.T) {
	a, b := newSpace(t), newSpace(t)
	wire(t, a, b)
	from, to := a.listen(t, Config{}), b.listen(t, Config{})
	a.sh(t, "ip link set veth0 mtu 1300")
	gso := from.socks[0].batch.gso.Load()
	got := make(chan int, 64)
	to.SetHandler(func(b []byte, segment int, _ netip.AddrPort) {
		for ; len(b) > 0; b = b[min(segment, len(b)):] {
			got <- min(segment, len(b))
		}
	})
	dst := netip.AddrPortFrom(netip.MustParseAddr("10.99.0.2"), uint16(to.Port()))
	for _, c := range []struct {
		name    string
		n, size int // of full datagrams
		last    int
		refused bool
		want    []int
	}{
		{"alone", 1, 1472, 0, true, nil},
		{"in front of a smaller one", 1, 1472, 1200, true, []int{1200}},
		{"several", 3, 1452, 900, true, []int{900}},
		{"none", 3, 1272, 900, false, []int{1272, 1272, 1272, 900}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := make([]byte, c.n*c.size+c.last)
			for i := range p {
				p[i] = 0x80
			}
			if err := from.Send(p, c.size, dst); errors.Is(err, unix.EMSGSIZE) != c.refused {
				t.Errorf("got %v; refused should be %v", err, c.refused)
			}
			if err := from.Send([]byte{0x80}, 1, dst); err != nil { // comes last
				t.Fatal(err)
			}
			for _, want := range append(c.want, 1) {
				if n := <-got; n != want {
					t.Errorf("got %d bytes, want %d", n, want)
				}
			}
		})
	}
	if from.socks[0].batch.gso.Load() != gso {
		t.Error("runs are not tried any more")
	}
}
