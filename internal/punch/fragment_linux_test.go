package punch

import (
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
