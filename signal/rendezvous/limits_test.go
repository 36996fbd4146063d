package rendezvous

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestLimitRequests(t *testing.T) {
	t.Parallel()
	k := newClock()
	c := call(t, Config{Now: k.Now, Limits: Limits{RequestsPerMinute: 600}})
	for range 600 {
		c.want(200, "GET", "/v1/health", "", nil)
	}
	if w := c.want(429, "GET", "/v1/health", "", nil); w.Header().Get("Retry-After") == "" {
		t.Error("a 429 without Retry-After")
	}
	caller{t, c.h, "192.0.2.2:1"}.want(200, "GET", "/v1/health", "", nil) // another address
	k.add(time.Second)
	c.want(200, "GET", "/v1/health", "", nil)
}

func TestLimitRooms(t *testing.T) {
	t.Parallel()
	k := newClock()
	c := call(t, Config{Now: k.Now, Limits: Limits{RoomsPerMinute: 60}})
	var last created
	for range 60 {
		last = c.create(nil)
	}
	c.want(429, "POST", "/v1/room", "", nil)
	c.join(last.Nameplate, "") // joining has its own count
	k.add(time.Minute)
	c.create(nil)
}

// The first wrong codes of a minute cost nothing, each further one a wait that doubles. Others at another address do
// not notice, and neither does what else goes on at this one.
func TestLimitFailedJoins(t *testing.T) {
	t.Parallel()
	k := newClock()
	c := call(t, Config{Now: k.Now})
	good := c.create(nil)
	free := func(i int) string { return fmt.Sprintf("/v1/room/%d/join", 1_000_000_000+i) } // rooms have four digits
	for i := range 11 {
		c.want(404, "POST", free(i), "", nil)
	}
	for _, wait := range []int{1, 2, 4} {
		w := c.want(429, "POST", "/v1/room/"+good.Nameplate+"/join", "", nil)
		if got := w.Header().Get("Retry-After"); got != fmt.Sprint(wait) || !strings.Contains(w.Body.String(), "too many wrong codes") {
			t.Errorf("got Retry-After %s and %s, want %d", got, w.Body, wait)
		}
		c.want(201, "POST", "/v1/room", "", nil) // all else goes on
		other := caller{t, c.h, "192.0.2.2:1"}
		other.join(other.create(nil).Nameplate, "")
		k.add(time.Duration(wait) * time.Second)
		c.want(404, "POST", free(99), "", nil)
	}
	for range 200 {
		c.do("POST", free(99), "", nil)
		k.add(10 * time.Second)
	}
	k.add(time.Minute) // the longest wait
	c.join(c.create(nil).Nameplate, "")

	other := caller{t, c.h, "192.0.2.3:1"}
	for i := range 10 { // slowly mistyping is nobody's crime
		other.want(404, "POST", free(i), "", nil)
		k.add(10 * time.Second)
	}
	other.join(other.create(nil).Nameplate, "")
}

// The addresses of one IPv6 site guess together, and guesses make the next nameplates longer.
func TestGuessesOfANetwork(t *testing.T) {
	t.Parallel()
	k := newClock()
	c := call(t, Config{Now: k.Now})
	guesses := 0
	for n := range 256 {
		for i := range 11 {
			from := caller{t, c.h, fmt.Sprintf("[2001:db8:0:%x00::1]:1", n)}
			if from.do("POST", fmt.Sprintf("/v1/room/%d/join", 1_000_000_000+i), "", nil).Code == 404 {
				guesses++
			}
		}
	}
	if guesses > 60 {
		t.Errorf("a /48 made %d guesses at once, want 60 at most", guesses)
	}
	if got := c.create(nil).Nameplate; len(got) != 4 {
		t.Errorf("after %d guesses a nameplate is %s, want four digits", guesses, got)
	}
	for n := range 100 {
		caller{t, c.h, fmt.Sprintf("192.0.3.%d:1", n)}.want(404, "POST", "/v1/room/1000000000/join", "", nil)
	}
	if got := c.create(nil).Nameplate; len(got) != 5 {
		t.Errorf("after many guesses a nameplate is %s, want five digits", got)
	}
	k.add(11 * time.Minute)
	if got := c.create(nil).Nameplate; len(got) != 4 {
		t.Errorf("long after them a nameplate is %s, want four digits", got)
	}
}

func TestLimitMessages(t *testing.T) {
	t.Parallel()
	c := call(t, Config{})
	a := c.create(nil)
	for i := range 32 {
		c.want(204, "PUT", fmt.Sprintf("/v1/room/%s/%d", a.ID, i), a.Token, []byte("x"))
	}
	c.want(403, "PUT", fmt.Sprintf("/v1/room/%s/32", a.ID), a.Token, []byte("x"))
}

func TestLimitBytesOfAddress(t *testing.T) {
	t.Parallel()
	k := newClock()
	c := call(t, Config{Now: k.Now, Limits: Limits{BytesPerMinute: 40 << 10}})
	large := make([]byte, MaxMessage)
	c.create(large)
	c.create(large)
	c.want(429, "POST", "/v1/room", "", large)
	k.add(time.Minute)
	c.create(large)
}

func TestLimitTotal(t *testing.T) {
	t.Parallel()
	k := newClock()
	c := call(t, Config{Now: k.Now, Limits: Limits{Rooms: 3}})
	a := c.create(nil)
	c.create(nil)
	c.create(nil)
	if w := c.want(503, "POST", "/v1/room", "", nil); w.Header().Get("Retry-After") == "" {
		t.Error("a 503 without Retry-After")
	}
	c.want(204, "DELETE", "/v1/room/"+a.ID, a.Token, nil)
	c.create(nil)
	k.add(11 * time.Minute)
	c.create(nil)

	c = call(t, Config{Limits: Limits{Bytes: 20 << 10}})
	a = c.create(make([]byte, MaxMessage))
	c.want(503, "PUT", "/v1/room/"+a.ID+"/1", a.Token, make([]byte, MaxMessage))
	c.want(204, "PUT", "/v1/room/"+a.ID+"/1", a.Token, make([]byte, 100))
	c.want(204, "DELETE", "/v1/room/"+a.ID, a.Token, nil)
	c.create(make([]byte, MaxMessage))
}

// What a store counts is zero again when all is over, whatever happened.
func TestMemoryIsGivenBack(t *testing.T) {
	t.Parallel()
	k := newClock()
	m := NewMemory(Limits{}, k.Now)
	ctx := t.Context()
	for i := range 30 {
		r := Room{Nameplate: fmt.Sprint(1000 + i), ID: secret(), Token: secret(), Expires: k.Now().Add(time.Duration(10-i%3) * time.Minute)}
		if i%2 == 0 {
			r.First = []byte("first")
		}
		if err := m.Create(ctx, r); err != nil {
			t.Fatal(err)
		}
		_ = m.Put(ctx, r.ID, r.Token, len(r.First)/5, bytes.Repeat([]byte("x"), i))
		if i%3 != 0 {
			j, err := m.Join(ctx, r.Nameplate, secret())
			if err != nil {
				t.Fatal(err)
			}
			_ = m.Put(ctx, j.ID, j.Token, 0, []byte("joined"))
			if i%5 == 0 {
				_ = m.Leave(ctx, j.ID, j.Token)
			}
		}
		if i%4 == 0 {
			_ = m.Leave(ctx, r.ID, r.Token)
		}
	}
	k.add(9 * time.Minute) // those of eight minutes
	if n, _ := m.Rooms(ctx); n == 0 || n >= 30 {
		t.Errorf("%d rooms after nine minutes", n)
	}
	k.add(time.Minute)
	if n, _ := m.Rooms(ctx); n != 0 || m.bytes != 0 || len(m.byID) != 0 || m.pool.Len() != 0 || len(m.used) != 0 || len(m.ends) != 0 {
		t.Errorf("left behind: %d rooms, %d bytes, %d ids, %d in the pool, %d used, %d endings", n, m.bytes, len(m.byID), m.pool.Len(), len(m.used), len(m.ends))
	}
}

func TestLimiterIsBounded(t *testing.T) {
	t.Parallel()
	l := newLimiter(Limits{Addresses: 100, Polls: 1000, PollsOfOne: 2, Bodies: 3, Uploads: 2}.withDefaults(), time.Now)
	var done []func()
	cut := 0
	for i := range 1000 {
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		l.allow(addr, perRequest, 1)
		if p, limit := l.poll(addr, ""); limit == "" {
			done = append(done, p.done)
		}
		if give, limit := l.upload(addr, func() { cut++ }); limit == "" {
			done = append(done, give)
		}
	}
	if len(l.others.known) != 100 || l.others.recent.Len() != 100 {
		t.Errorf("%d addresses and %d places, want 100", len(l.others.known), l.others.recent.Len())
	}
	if len(done) != 2000 || cut != 997 || l.bodies.Len() != 3 || l.waiting() != 1000 {
		t.Errorf("%d slots taken, %d bodies cut off, %d read, %d polls; want 2000, 997, 3, 1000", len(done), cut, l.bodies.Len(), l.waiting())
	}
	for _, give := range done[:10] {
		give()
	}
	addr := netip.MustParseAddr("192.0.2.1")
	one, _ := l.poll(addr, "")
	two, _ := l.poll(addr, "")
	if _, limit := l.poll(addr, ""); limit != limitPollsOfOne {
		t.Errorf("a third poll: limit %q, want %q", limit, limitPollsOfOne)
	}
	if p, limit := l.poll(addr, "token"); limit != "" {
		t.Errorf("a poll with a token: limit %q", limit)
	} else {
		p.done()
	}
	for _, give := range append(done[10:], one.done, two.done) {
		give()
	}
	if len(l.without) != 0 || len(l.inside) != 0 || l.bodies.Len() != 0 || l.waiting() != 0 {
		t.Errorf("left behind: %d addresses, %d tokens, %d bodies, %d polls", len(l.without), len(l.inside), l.bodies.Len(), l.waiting())
	}
}

// When all polls are in use those of the address with the most end for others.
func TestPollsAreShared(t *testing.T) {
	t.Parallel()
	l := newLimiter(Limits{Polls: 10}.withDefaults(), time.Now)
	many, few := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	var polls []poll
	for range 10 {
		p, limit := l.poll(many, "")
		if limit != "" {
			t.Fatal(limit)
		}
		polls = append(polls, p)
	}
	if _, limit := l.poll(many, ""); limit != limitPolls {
		t.Errorf("one more of the same address: limit %q, want %q", limit, limitPolls)
	}
	for i := range 4 {
		if _, limit := l.poll(few, ""); limit != "" {
			t.Fatalf("poll %d of another address: limit %q", i, limit)
		}
		select {
		case <-polls[i].kicked:
		default:
			t.Errorf("poll %d, the oldest of many, goes on", i)
		}
	}
	for _, p := range polls {
		p.done()
	}
	if l.waiting() != 4 {
		t.Errorf("%d polls, want 4", l.waiting())
	}
}

// Nameplates are random and get longer before guessing pays.
func TestNameplate(t *testing.T) {
	t.Parallel()
	for rooms, digits := range map[int]int{0: 4, 899: 4, 900: 5, 8999: 5, 9000: 6, 20_000: 6} {
		s := New(Config{Store: counted{rooms: rooms}})
		seen := make(map[string]bool)
		for range 50 {
			n, err := s.nameplate(t.Context())
			if err != nil || len(n) != digits || !isNameplate(n) {
				t.Fatalf("with %d rooms: %q, %v, want %d digits", rooms, n, err, digits)
			}
			seen[n] = true
		}
		if len(seen) < 45 {
			t.Errorf("with %d rooms: only %d of 50 differ", rooms, len(seen))
		}
		s.Close()
	}
}

// counted is a store that says how many rooms it has.
type counted struct {
	Store
	rooms int
}

func (c counted) Rooms(context.Context) (int, error) { return c.rooms, nil }
