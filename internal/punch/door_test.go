package punch

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"adit/internal/stunmsg"
)

// A check that was overheard does nothing when it is sent again from elsewhere.
func TestReplayedChecks(t *testing.T) {
	t.Parallel()
	h, m := dispatcher("ABCDabcd")
	peer := netip.MustParseAddrPort("198.51.100.1:9")
	candidate := netip.MustParseAddrPort("198.51.100.1:10")
	mallory := netip.MustParseAddrPort("203.0.113.66:9")
	m.expectFrom(candidate)
	one, two, three := request(t, "ABCDabcd:wxyz"), request(t, "ABCDabcd:wxyz"), request(t, "ABCDabcd:wxyz")
	forged := append([]byte(nil), three...)
	forged[len(forged)-1] ^= 1   // the fingerprint is not looked at
	forged[len(forged)-8-1] ^= 1 // integrity is
	for i, step := range []struct {
		name  string
		check []byte
		from  netip.AddrPort
		want  int
	}{
		{"first", one, peer, 1},
		{"doubled by the network", one, peer, 1},
		{"from another host", one, mallory, 0},
		{"from another port", one, netip.AddrPortFrom(peer.Addr(), 11), 0},
		{"another check", two, peer, 1},
		{"that from another host", two, mallory, 0},
		{"not authentic from the peer", forged, peer, 0},
		{"its transaction was not seen by that", three, mallory, 1},
		{"and now by the peer", three, peer, 0},
		{"or by a remote candidate", three, candidate, 1},
	} {
		h.receive(step.check, len(step.check), step.from)
		got := len(m.conns[0].inbox)
		for range got {
			<-m.conns[0].inbox
		}
		if got != step.want {
			t.Errorf("step %d, %s: got %d checks delivered, want %d", i, step.name, got, step.want)
		}
	}
}

func TestDoorIsBounded(t *testing.T) {
	t.Parallel()
	var d door
	peer, mallory := netip.MustParseAddrPort("198.51.100.1:9"), netip.MustParseAddrPort("203.0.113.66:9")
	id := func(i int) (id stunmsg.ID) {
		binary.BigEndian.PutUint32(id[:], uint32(i))
		return id
	}
	const n = 3*maxSeen + 7
	for i := range n {
		if !d.pass(id(i), peer) {
			t.Fatalf("check %d was refused", i)
		}
	}
	if len(d.seen) != maxSeen || len(d.ring) != maxSeen {
		t.Errorf("got %d and %d remembered, want %d", len(d.seen), len(d.ring), maxSeen)
	}
	for _, i := range []int{n - 1, n - maxSeen} {
		if d.pass(id(i), mallory) {
			t.Errorf("check %d of %d passed from another source", i, n)
		}
	}
	if len(d.sources) != 1 {
		t.Errorf("got %d sources, want 1", len(d.sources))
	}
}
