package fair

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestPrefixes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ addr, address, network string }{
		{"192.0.2.7", "192.0.2.7/32", "192.0.2.7/32"},
		{"::ffff:192.0.2.7", "192.0.2.7/32", "192.0.2.7/32"},
		{"2001:db8:1:2ff::1", "2001:db8:1:200::/56", "2001:db8:1::/48"},
		{"fe80::1%eth0", "fe80::/56", "fe80::/48"},
	} {
		if got := Address(addr(tt.addr)).String(); got != tt.address {
			t.Errorf("Address(%s): got %s, want %s", tt.addr, got, tt.address)
		}
		if got := Network(addr(tt.addr)).String(); got != tt.network {
			t.Errorf("Network(%s): got %s, want %s", tt.addr, got, tt.network)
		}
	}
	if got := Address(netip.Addr{}); got.IsValid() {
		t.Errorf("Address of nothing: got %v, want none", got)
	}
}

func TestVictim(t *testing.T) {
	t.Parallel()
	fill := func(addrs ...string) *Pool[int] {
		p := new(Pool[int])
		for i, a := range addrs {
			p.Add(addr(a), 1, i)
		}
		return p
	}
	for _, tt := range []struct {
		name     string
		pool     *Pool[int]
		newcomer string
		want     int // -1 for none
		own      bool
	}{
		{"nobody", fill(), "192.0.2.1", -1, false},
		{"the heaviest address's oldest", fill("192.0.2.2", "192.0.2.3", "192.0.2.3"), "192.0.2.1", 1, false},
		{"each holds one", fill("192.0.2.2", "192.0.2.3"), "192.0.2.1", -1, false},
		{"its own, if it holds the most", fill("192.0.2.2", "192.0.2.3", "192.0.2.3"), "192.0.2.3", 1, true},
		{"its own, if it would hold as much", fill("192.0.2.2", "192.0.2.3", "192.0.2.3"), "192.0.2.2", 0, true},
		{"many addresses of a /48 are one network", fill("192.0.2.2", "2001:db8:0:100::1", "2001:db8:0:200::1"), "192.0.2.1", 1, false},
		{"a third address of that /48", fill("192.0.2.2", "2001:db8:0:100::1", "2001:db8:0:200::1"), "2001:db8:0:300::1", 1, false},
	} {
		got, own := tt.pool.Victim(addr(tt.newcomer), 1)
		switch {
		case tt.want < 0 && got != nil:
			t.Errorf("%s: got %d, want none", tt.name, got.Value)
		case tt.want >= 0 && (got == nil || got.Value != tt.want || own != tt.own):
			t.Errorf("%s: got %v own %v, want %d own %v", tt.name, got, own, tt.want, tt.own)
		}
	}
}

// Whatever strangers do in a full pool, an address that asks for no more than an even share of it keeps what it has.
func TestEvenShare(t *testing.T) {
	t.Parallel()
	const room = 60
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		p := new(Pool[*bool])
		networks := 1 + rng.IntN(10)
		share := room / (networks + 1)
		honest := addr("198.51.100.1")
		kept := make([]*bool, 0, share)
		all := make(map[*bool]*Member[*bool])
		join := func(from netip.Addr) *bool {
			if p.Len() == room {
				victim, _ := p.Victim(from, 1)
				if victim == nil {
					return nil
				}
				*victim.Value = false
				delete(all, victim.Value)
				p.Remove(victim)
			}
			alive := new(bool)
			*alive = true
			all[alive] = p.Add(from, 1, alive)
			return alive
		}
		for range 2000 {
			switch n := rng.IntN(10); {
			case n == 0 && len(kept) < share:
				got := join(honest)
				if got == nil {
					t.Fatalf("seed %d: an address with %d of %d found no room", seed, len(kept), share)
				}
				kept = append(kept, got)
			case n == 1 && p.Len() > 0:
				m := p.Oldest()
				if m.From() != Address(honest) {
					delete(all, m.Value)
					p.Remove(m)
				}
			default:
				a := netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 0, byte(rng.IntN(networks)), byte(rng.IntN(4))})
				join(a)
			}
			for _, k := range kept {
				if !*k {
					t.Fatalf("seed %d: an address lost its even share of %d to %d networks", seed, share, networks)
				}
			}
			if p.Len() > room || p.Weight() != p.Len() || len(all) != p.Len() {
				t.Fatalf("seed %d: %d members of weight %d, %d known, room for %d", seed, p.Len(), p.Weight(), len(all), room)
			}
		}
		for _, m := range all {
			p.Remove(m)
			p.Remove(m)
		}
		if p.Len() != 0 || p.Weight() != 0 || len(p.networks.heap) != 0 || len(p.networks.byPrefix) != 0 {
			t.Fatalf("seed %d: an empty pool still holds %+v", seed, p)
		}
	}
}

func TestTouchAndGrow(t *testing.T) {
	t.Parallel()
	p := new(Pool[string])
	a := p.Add(addr("192.0.2.1"), 10, "a")
	p.Add(addr("192.0.2.1"), 10, "b")
	p.Add(addr("192.0.2.2"), 25, "c")
	if v, _ := p.Victim(addr("192.0.2.3"), 1); v.Value != "c" {
		t.Errorf("victim is %q, want the heaviest, c", v.Value)
	}
	p.Grow(a, 10)
	if v, _ := p.Victim(addr("192.0.2.3"), 1); v.Value != "a" {
		t.Errorf("victim is %q, want a, the oldest of the heaviest", v.Value)
	}
	p.Touch(a)
	if v, _ := p.Victim(addr("192.0.2.3"), 1); v.Value != "b" || p.Oldest().Value != "b" {
		t.Errorf("victim is %q, oldest %q, want b after a was touched", v.Value, p.Oldest().Value)
	}
	if got := p.WeightOf(addr("192.0.2.1")); got != 30 {
		t.Errorf("weight: got %d, want 30", got)
	}
}

func BenchmarkFull(b *testing.B) {
	p := new(Pool[int])
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; b.Loop(); i++ {
		a := netip.AddrFrom4([4]byte{10, 0, byte(rng.IntN(256)), byte(rng.IntN(256))})
		if p.Len() >= 100_000 {
			if v, _ := p.Victim(a, 1); v != nil {
				p.Remove(v)
			} else {
				p.Remove(p.Oldest())
			}
		}
		p.Add(a, 1, i)
	}
}
