package relay

import (
	"bytes"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

const (
	pairLife  = 15 * time.Minute // a pair without an allocation is forgotten after this
	pairsMost = 65_536
	seenMost  = 16 // addresses of a pair; the one seen longest ago is forgotten
)

// A pair is the two sides of a room, as far as the relay knows them. It relays between the two: to the relayed
// addresses that they have here, and to the addresses from which they were seen themselves.
type pair struct {
	seen        map[netip.Addr]time.Time
	allocations int
	usedAt      time.Time
}

// identity returns what stays the same in the usernames of one side of a room: what follows the time.
func identity(user string) string {
	_, id, _ := strings.Cut(user, ":")
	return id
}

// pairOf returns the pair that a username belongs to: PAIR in "SECONDS:PAIR.SIDE", which is what a rendezvous hands
// out. It is empty for a username of another form: the operator has made that one for somebody, with the secret, and
// it may send to whatever is public.
func pairOf(user string) string {
	id := identity(user)
	return id[:max(strings.LastIndexByte(id, '.'), 0)]
}

// Seen says that one side of a pair has shown, by a request that carries its secret, that it is at an address. The
// rendezvous calls it for each request of a side that has been given a credential.
func (t *TURN) Seen(name string, addr netip.Addr) {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pairLocked(name, now); p != nil {
		p.see(addr, now)
	}
}

// pairLocked returns a pair, making it if there is room: nil if there is none.
func (t *TURN) pairLocked(name string, now time.Time) *pair {
	p := t.pairs[name]
	if p == nil {
		if len(t.pairs) >= pairsMost {
			return nil
		}
		p = &pair{seen: make(map[netip.Addr]time.Time)}
		t.pairs[name] = p
	}
	p.usedAt = now
	return p
}

func (p *pair) see(addr netip.Addr, now time.Time) {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return
	}
	if _, known := p.seen[addr]; !known && len(p.seen) >= seenMost {
		oldest := addr
		for a, at := range p.seen {
			if oldest == addr || at.Before(p.seen[oldest]) {
				oldest = a
			}
		}
		delete(p.seen, oldest)
	}
	p.seen[addr] = now
}

// asked says that a side of an allocation's pair has been seen at an address once more, by an authenticated request.
func (t *TURN) asked(user []byte, addr netip.Addr, now time.Time) {
	_, id, _ := bytes.Cut(user, []byte(":"))
	id = id[:max(bytes.LastIndexByte(id, '.'), 0)]
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pairs[string(id)]; p != nil {
		p.usedAt = now
		p.see(addr, now)
	}
}

// reaches says whether a pair may have packets sent to an address that is none of the relay's own: one of its sides
// was seen there, or the operator's other relays are.
func (t *TURN) reaches(name string, ip netip.Addr) bool {
	if name == "" {
		return true // the operator's own
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.others[ip] {
		return true
	}
	p := t.pairs[name]
	if p == nil {
		return false
	}
	_, ok := p.seen[ip]
	return ok
}

// SetRelays says where the other relays are that peers are told of: what a side has there is as good as what it has
// here.
func (t *TURN) SetRelays(addrs []netip.Addr) {
	others := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		others[a.Unmap()] = true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.others = others
}

// forgetLocked forgets pairs and accounts that are in no use.
func (t *TURN) forgetLocked(now time.Time) {
	for name, p := range t.pairs {
		if p.allocations == 0 && now.Sub(p.usedAt) >= pairLife {
			delete(t.pairs, name)
		}
	}
	for user, a := range t.users {
		if a.idle(now) {
			delete(t.users, user)
		}
	}
	for source, a := range t.sources {
		if a.idle(now) {
			delete(t.sources, source)
		}
	}
}

// An account is what one side of a pair, or one address, or all together may relay.
type account struct {
	allocations int           // guarded by TURN.mu
	up, down    *rate.Limiter // bytes a second, to peers and to clients; nil is no bound
	volume      *rate.Limiter // bytes a day, both ways; nil is no bound
}

// newAccount returns one of so many bytes a second each way, and a day; 0 is no bound.
func newAccount(bytesPerSecond, bytesPerDay int) *account {
	a := &account{up: newRate(bytesPerSecond), down: newRate(bytesPerSecond)}
	if bytesPerDay > 0 {
		a.volume = rate.NewLimiter(rate.Limit(float64(bytesPerDay)/86_400), bytesPerDay)
	}
	return a
}

// idle says whether an account can be forgotten: nothing holds it, and a new one would allow as much.
func (a *account) idle(now time.Time) bool {
	return a.allocations == 0 && (a.volume == nil || a.volume.TokensAt(now) >= float64(a.volume.Burst()))
}

// spend takes n bytes out.
func (a *account) spend(down bool, n int, now time.Time) bool {
	way := a.up
	if down {
		way = a.down
	}
	return (way == nil || way.AllowN(now, n)) && (a.volume == nil || a.volume.AllowN(now, n))
}

// Stats is what a relay has done since its start.
type Stats struct {
	Bytes, Packets, Dropped map[string]uint64 // by the client's transport; dropped for a rate or a volume
	AuthFailures            uint64
	Forbidden               uint64 // permissions and channels for addresses where no side was seen
}
