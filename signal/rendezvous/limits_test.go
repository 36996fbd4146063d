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
	c := call(t, Config{Now: k.Now})
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
	c := call(t, Config{Now: k.Now})
	var last created
	for range 60 {
		last = c.create(nil)
	}
	c.want(429, "POST", "/v1/room", "", nil)
	c.join(last.Nameplate, "") // joining has its own count
	k.add(time.Minute)
	c.create(nil)
}

func TestLimitFailedJoins(t *testing.T) {
	t.Parallel()
	k := newClock()
	c := call(t, Config{Now: k.Now})
	good := c.create(nil)
	free := func(i int) string { return fmt.Sprintf("/v1/room/%d/join", 100_000+i) } // rooms have four digits
	for i := range 11 {
		c.want(404, "POST", free(i), "", nil)
	}
	w := c.want(429, "POST", "/v1/room/"+good.Nameplate+"/join", "", nil)
	if !strings.Contains(w.Body.String(), "too many wrong codes") {
		t.Errorf("refusal is %s", w.Body)
	}
	c.want(201, "POST", "/v1/room", "", nil) // all else goes on
	k.add(14 * time.Minute)
	c.want(429, "POST", free(99), "", nil)
	k.add(2 * time.Minute)
	c.want(404, "POST", free(99), "", nil)

	other := caller{t, c.h, "192.0.2.2:1"}
	for i := range 10 { // slowly mistyping is nobody's crime
		other.want(404, "POST", free(i), "", nil)
		k.add(10 * time.Second)
	}
	other.join(other.create(nil).Nameplate, "")
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
	if n, _ := m.Rooms(ctx); n != 0 || m.bytes != 0 || len(m.byID) != 0 || m.order.Len() != 0 {
		t.Errorf("left behind: %d rooms, %d bytes, %d ids, %d in order", n, m.bytes, len(m.byID), m.order.Len())
	}
}

func TestLimiterIsBounded(t *testing.T) {
	t.Parallel()
	l := newLimiter(Limits{Addresses: 100, Polls: 2, Bodies: 3, Uploads: 2}.withDefaults(), time.Now)
	var done []func()
	for i := range 1000 {
		addr := network(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
		l.request(addr)
		if give, ok := l.poll(addr); ok {
			done = append(done, give)
		}
		if give, ok, _ := l.upload(addr); ok {
			done = append(done, give)
		}
	}
	if len(l.known) != 100 || l.recent.Len() != 100 {
		t.Errorf("%d addresses and %d places, want 100", len(l.known), l.recent.Len())
	}
	if len(done) != 1003 {
		t.Errorf("%d slots taken, want a poll each and three bodies", len(done))
	}
	addr := netip.MustParsePrefix("192.0.2.1/32")
	one, _ := l.poll(addr)
	two, _ := l.poll(addr)
	if _, ok := l.poll(addr); ok {
		t.Error("a third poll")
	}
	for _, give := range append(done, one, two) {
		give()
	}
	if len(l.active) != 0 || len(l.bodies) != 0 {
		t.Errorf("left behind: %d addresses, %d bodies", len(l.active), len(l.bodies))
	}
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"192.0.2.1":          "192.0.2.1/32",
		"::ffff:192.0.2.1":   "192.0.2.1/32",
		"2001:db8:1:2ff::9":  "2001:db8:1:200::/56",
		"fe80::1%eth0":       "fe80::/56",
		"2001:db8:1:200::10": "2001:db8:1:200::/56",
	} {
		if got := network(netip.MustParseAddr(addr)).String(); got != want {
			t.Errorf("network(%s) = %s, want %s", addr, got, want)
		}
	}
	if got := network(netip.Addr{}); got.IsValid() {
		t.Errorf("network of nothing is %v", got)
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
