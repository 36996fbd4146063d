package relay

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"adit/internal/stunmsg"
)

// Whoever has the credentials of both sides of a room reaches nobody who did not ask: not by a permission, a channel or
// an indication, and not the allocations of other rooms. The third host has an address that the operator has opened.
func TestThirdHost(t *testing.T) {
	t.Parallel()
	third, err := net.ListenPacket("udp4", "127.0.0.7:0")
	if err != nil {
		t.Skip("this system has one loopback address")
	}
	defer third.Close()
	host := third.LocalAddr().(*net.UDPAddr).AddrPort()
	s := startTURN(t, TURNConfig{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Rate: 1 << 20, PerCredential: 8})
	sides := []*raw{good(s, t, "room.0"), good(s, t, "room.1")}
	victim, theirs := allocateOn(t, s.access("udp", "other.0")) // of another room, which lets the first one in
	if err := victim.Permit(t.Context(), victim.Relayed().Addr()); err != nil {
		t.Fatal(err)
	}
	targets := []netip.AddrPort{host, netip.AddrPortFrom(host.Addr(), host.Port()), victim.Relayed()}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		r := sides[rng.IntN(2)]
		to := targets[rng.IntN(len(targets))]
		mine := netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", 1024+rng.IntN(60_000)))
		channel := stunmsg.MinChannel + uint16(i)
		switch rng.IntN(6) {
		case 0:
			if m := r.ask(methodCreatePermission, true, peerAttr(to)); to == host && code(m) != codeForbidden {
				t.Fatalf("permission for a third host: got %d, want 403", code(m))
			}
		case 1: // behind one that is good
			if m := r.ask(methodCreatePermission, true, peerAttr(mine), peerAttr(to)); to == host && code(m) != codeForbidden {
				t.Fatalf("permission for a third host behind another: got %d, want 403", code(m))
			}
		case 2:
			m := r.ask(methodChannelBind, true, number(channel), peerAttr(to))
			if to == host && code(m) != codeForbidden {
				t.Fatalf("channel to a third host: got %d, want 403", code(m))
			}
			if _, err := r.conn.Write([]byte{byte(channel >> 8), byte(channel), 0, 3, 'b', 'a', 'd', 0}); err != nil {
				t.Fatal(err)
			}
		case 3:
			if m := r.ask(methodChannelBind, true, number(channel), peerAttr(mine)); code(m) != 0 && code(m) != codeCapacity {
				t.Fatalf("channel to where a side was seen: got %d", code(m))
			}
		default:
			if _, err := r.conn.Write(sendTo(to, "bad")); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, r := range sides { // what comes after shows that all has been dealt with
		if m := r.ask(methodRefresh, true); code(m) != 0 {
			t.Fatalf("refresh: got %d", code(m))
		}
	}
	_ = third.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	buf := make([]byte, 100)
	if n, from, err := third.ReadFrom(buf); err == nil {
		t.Errorf("the third host got %q from %v", buf[:n], from)
	}
	select {
	case m := <-theirs:
		t.Errorf("the allocation of another room got %q", m)
	default:
	}
	if got := s.Stats().Forbidden; got == 0 {
		t.Error("nothing was counted as forbidden")
	}
	// As soon as a side is seen there it is one of the two.
	s.Seen("room", host.Addr())
	if m := sides[0].ask(methodCreatePermission, true, peerAttr(host)); code(m) != 0 {
		t.Errorf("permission for where a side was seen: got %d", code(m))
	}
}

// The two sides of a room reach each other from wherever they ask, at each other's relayed addresses.
func TestPairRelays(t *testing.T) {
	t.Parallel()
	s := startTURN(t, TURNConfig{})
	a, gotA := allocateOn(t, s.access("udp", "room.0"))
	b, gotB := allocateOn(t, s.access("tls", "room.1"))
	if err := a.Permit(t.Context(), b.Relayed().Addr()); err != nil {
		t.Fatal(err)
	}
	if err := b.Permit(t.Context(), a.Relayed().Addr()); err != nil {
		t.Fatal(err)
	}
	if err := a.Send([]byte("to b"), 4, b.Relayed()); err != nil {
		t.Fatal(err)
	}
	if got, want := receive(t, "b", gotB), a.Relayed().String()+" to b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := b.Send([]byte("to a"), 4, a.Relayed()); err != nil {
		t.Fatal(err)
	}
	if got, want := receive(t, "a", gotA), b.Relayed().String()+" to a"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What a side, an address and all together may relay in a day does not begin anew with another allocation.
func TestVolume(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]TURNConfig{"a side": {Volume: 100_000}, "an address": {SourceVolume: 100_000}, "all": {TotalVolume: 100_000}} {
		s := startTURN(t, cfg)
		now := time.Now()
		relayed := 0
		for range 3 {
			r := good(s, t, "room.0")
			s.mu.RLock()
			var x *allocation
			for _, a := range s.allocations {
				x = a
			}
			s.mu.RUnlock()
			for range 100 {
				if x.spend(false, 1000, now) {
					relayed += 1000
				}
			}
			if m := r.ask(methodRefresh, true, lifetimeAttr(0)); code(m) != 0 {
				t.Fatalf("give back: got %d", code(m))
			}
		}
		if relayed > 101_000 { // and what a fraction of a second brings
			t.Errorf("%s relayed %d bytes with three allocations, want 100,000", name, relayed)
		}
		s.mu.Lock()
		s.forgetLocked(now.Add(48 * time.Hour))
		s.mu.Unlock()
	}
}

// A username that the operator made reaches what is public, and no room's allocations.
func TestOperatorsOwn(t *testing.T) {
	t.Parallel()
	for user, want := range map[string]string{
		"17:abc.0": "abc", "17:abc.1": "abc", "17:a.b.1": "a.b", "17:.1": "", "17:somebody": "", "17:": "", "17": "", "": "",
	} {
		if got := pairOf(user); got != want {
			t.Errorf("pairOf(%q): got %q, want %q", user, got, want)
		}
	}
	s := startTURN(t, TURNConfig{})
	user := fmt.Sprint(time.Now().Add(time.Hour).Unix()) + ":somebody"
	r := s.raw(t, user, Password(secret, user))
	if m := r.ask(methodAllocate, true, transportUDP); code(m) != 0 {
		t.Fatalf("allocate: got %d", code(m))
	}
	if m := r.ask(methodCreatePermission, true, peerAttr(netip.MustParseAddrPort("9.9.9.9:53"))); code(m) != 0 {
		t.Errorf("permission for a public address: got %d", code(m))
	}
	if m := r.ask(methodCreatePermission, true, peerAttr(netip.MustParseAddrPort("10.9.9.9:53"))); code(m) != codeForbidden {
		t.Errorf("permission for a private address: got %d, want 403", code(m))
	}
	victim, got := allocateOn(t, s.access("udp", "room.0"))
	if err := victim.Permit(t.Context(), victim.Relayed().Addr()); err != nil {
		t.Fatal(err)
	}
	if m := r.ask(methodCreatePermission, true, peerAttr(victim.Relayed())); code(m) != 0 {
		t.Fatalf("permission for the relay's address: got %d", code(m))
	}
	if _, err := r.conn.Write(sendTo(victim.Relayed(), "bad")); err != nil {
		t.Fatal(err)
	}
	if m := r.ask(methodRefresh, true); code(m) != 0 {
		t.Fatalf("refresh: got %d", code(m))
	}
	select {
	case m := <-got:
		t.Errorf("a room's allocation got %q", m)
	default:
	}
}
