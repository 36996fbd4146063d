package peer

import (
	"net/netip"
	"testing"
	"time"

	"adit/internal/link"
	"adit/internal/punch"
	"adit/signal"
)

var (
	unknownNAT = punch.NAT{}
	noNAT      = punch.NAT{Mapping: punch.Unmapped, Preserved: true}
	easyNAT    = punch.NAT{Mapping: punch.EndpointIndependent}
	randomNAT  = punch.NAT{Mapping: punch.EndpointDependent}
	countNAT   = punch.NAT{Mapping: punch.EndpointDependent, Step: 2, Last: netip.MustParseAddrPort("203.0.113.9:40000")}
)

// TestPlans: whatever one side does, the other does what fits.
func TestPlans(t *testing.T) {
	t.Parallel()
	fits := map[plan]plan{noPlan: noPlan, spray: probe, probe: spray, predict: predict}
	all := []punch.NAT{unknownNAT, noNAT, easyNAT, randomNAT, countNAT}
	want := map[[2]int]plan{{2, 3}: probe, {2, 4}: probe, {3, 2}: spray, {4, 2}: spray, {4, 4}: predict}
	for i, a := range all {
		for j, b := range all {
			p, q := planFor(a, b), planFor(b, a)
			if p != want[[2]int{i, j}] || fits[p] != q {
				t.Errorf("%v and %v: plans %v and %v, want %v", a, b, p, q, want[[2]int{i, j}])
			}
			if got := toPunchNAT(toSignalNAT(a)); got != a {
				t.Errorf("%+v travels as %+v", a, got)
			}
		}
	}
}

func TestAims(t *testing.T) {
	t.Parallel()
	got := aims(countNAT)
	if len(got) != aimTries || got[0] != 40000+2*aimEach || got[1] != 40000+4*aimEach {
		t.Errorf("got %v", got)
	}
	if aims(randomNAT) != nil {
		t.Error("aims at what cannot be told")
	}
	public := netip.MustParseAddrPort("203.0.113.7:1")
	if a, b := hardAddr(countNAT, public), hardAddr(randomNAT, public); a != countNAT.Last.Addr() || b != public.Addr() {
		t.Errorf("got %v and %v", a, b)
	}
}

// TestNATTalk: only news counts, and of it only the newest.
func TestNATTalk(t *testing.T) {
	t.Parallel()
	n := newNATTalk()
	count := toSignalNAT(countNAT)
	n.describe(count)
	n.hear(count)
	n.hear(signal.NAT{})
	if len(n.heard) != 0 {
		t.Error("old news are news")
	}
	for range 3 {
		count.Last = netip.AddrPortFrom(count.Last.Addr(), count.Last.Port()+1)
		n.hear(count)
	}
	if got := <-n.heard; got != count {
		t.Errorf("got %+v, want %+v", got, count)
	}
	for _, c := range []signal.Candidate{
		{Type: signal.Host, Addr: netip.MustParseAddrPort("192.0.2.1:1")},
		{Type: signal.ServerReflexive, Addr: netip.MustParseAddrPort("[2001:db8::1]:1")},
		{Type: signal.ServerReflexive, Addr: netip.MustParseAddrPort("192.0.2.2:2")},
		{Type: signal.ServerReflexive, Addr: netip.MustParseAddrPort("192.0.2.3:3")},
	} {
		n.see(c)
	}
	n.measured(countNAT)
	own, peer, willing, trickles, public := n.state()
	if own != countNAT || peer != toPunchNAT(count) || !willing || trickles || public != netip.MustParseAddrPort("192.0.2.2:2") {
		t.Errorf("got %+v, %+v, %v, %v, %v", own, peer, willing, trickles, public)
	}
	if n.hopeless() {
		t.Error("two NATs that count are no hopeless case")
	}
	if n.describe(toSignalNAT(randomNAT)); !n.hopeless() {
		t.Error("a random one and one that counts are")
	}
}

// A session that is asked for one burst after the other makes a few at once, and others with time.
func TestBurstBudget(t *testing.T) {
	t.Parallel()
	n, now := newNATTalk(), time.Now()
	count := func() (got int) {
		for range 100 {
			if n.mayBurst(now) {
				got++
			}
		}
		return got
	}
	if got := count(); got != burstsAtOnce {
		t.Errorf("got %d bursts at once, want %d", got, burstsAtOnce)
	}
	if now = now.Add(burstEvery); count() != 1 {
		t.Error("not one more after a while")
	}
	if now = now.Add(24 * time.Hour); count() != burstsAtOnce {
		t.Error("a quiet day is worth another number of bursts than the first minute")
	}
}

// nowhere is a socket that loses everything.
type nowhere struct{}

func (nowhere) Send([]byte, int, netip.AddrPort) error { return nil }

// The peer has moved: its half of the next generation says where it is now.
func TestPublicMoves(t *testing.T) {
	t.Parallel()
	e := &endpoint{cfg: Config{Logger: discard}, nat: newNATTalk()}
	mux := link.NewMux()
	index, err := mux.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	if e.link, err = mux.Open(link.Config{Socket: nowhere{}, LocalIndex: index, RemoteIndex: 1}); err != nil {
		t.Fatal(err)
	}
	defer e.link.Close("")
	r := &roamer{e: e}
	half := func(seed byte, addr string) {
		g := &generation{e: e, remote: make(chan signal.Description, 4)}
		r.gen = g
		r.take(offer{kind: controlOffer, d: signal.Description{Seed: [16]byte{seed}, Candidates: []signal.Candidate{
			{Type: signal.Host, Addr: netip.MustParseAddrPort("192.0.2.1:1")},
			{Type: signal.ServerReflexive, Addr: netip.MustParseAddrPort(addr)},
		}}})
	}
	for i, addr := range []string{"198.51.100.1:1", "203.0.113.1:2"} {
		half(byte(i+1), addr)
		if _, _, _, _, got := e.nat.state(); got.String() != addr {
			t.Errorf("the peer is at %v, want %v", got, addr)
		}
	}
}
