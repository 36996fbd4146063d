package rendezvous

import (
	"context"
	"errors"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"
)

func TestPlace(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	m := NewMemory(Limits{}, func() time.Time { return now })
	ctx := context.Background()
	r := Room{Nameplate: "1234", ID: secret(), Token: secret(), Expires: now.Add(time.Minute)}
	if err := m.Create(ctx, r); err != nil {
		t.Fatal(err)
	}
	place := func(what, token string, want Place, wantErr error) {
		t.Helper()
		got, err := m.Place(ctx, r.ID, token)
		if got != want || !errors.Is(err, wantErr) {
			t.Errorf("%s: got %+v, %v, want %+v, %v", what, got, err, want, wantErr)
		}
	}
	place("creator alone", r.Token, Place{Expires: r.Expires}, nil)
	joined := secret()
	place("nobody", joined, Place{}, ErrToken)
	if _, err := m.Join(ctx, "1234", joined); err != nil {
		t.Fatal(err)
	}
	place("creator", r.Token, Place{Both: true, Expires: r.Expires}, nil)
	place("joiner", joined, Place{Side: 1, Both: true, Expires: r.Expires}, nil)
	if err := m.Leave(ctx, r.ID, joined); err != nil {
		t.Fatal(err)
	}
	place("creator, left alone", r.Token, Place{}, ErrPeerGone)
	place("who has left", joined, Place{}, ErrToken)
	now = now.Add(time.Hour)
	place("too late", r.Token, Place{}, ErrNoRoom)
}

// The credential is that of draft-uberti-behave-turn-rest-00, ends when it should, is for the same pair and side
// whenever it is asked for, and tells nothing about the room.
func TestTURNCredential(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	seen := make(map[string]netip.Addr)
	s := New(Config{
		TURN: TURN{URLs: []string{"turn:h"}, Secret: []byte("secret"), Seen: func(pair string, a netip.Addr) { seen[pair] = a }},
		Now:  func() time.Time { return now },
	})
	defer s.Close()
	id := "0123456789abcdef0123456789abcdef"
	addr := netip.MustParseAddr("192.0.2.1")
	q := &request{r: httptest.NewRequest("GET", "/", nil), addr: addr}
	got := s.turnFor(q, id, 0)
	// By hand: printf %s "adit turn ID" | sha256sum; printf %s USER | openssl dgst -sha1 -hmac secret -binary | base64
	const pair = "41b6ce63b4a9cde7668be220"
	if u, p := got.TURN[0].Username, got.TURN[0].Password; u != "1700000900:"+pair+".0" || p != "FG4V5IeIW+cO4AqRdj2nmuBf9uY=" || got.Seconds != 900 {
		t.Errorf("got %q, %q, %d s", u, p, got.Seconds)
	}
	if seen[pair] != addr {
		t.Errorf("the relay knows %v, want the pair at %v", seen, addr)
	}
	now = now.Add(time.Minute)
	if again := s.turnFor(q, id, 0); again.TURN[0].Username != "1700000960:"+pair+".0" {
		t.Errorf("asked again: got %+v, want it for the same side, a minute longer", again)
	}
	if other := s.turnFor(q, id, 1); other.TURN[0].Username != "1700000960:"+pair+".1" {
		t.Errorf("the other side: got %+v, want the other side of the same pair", other)
	}
	now = now.Add(48 * time.Hour)
	q.addr = netip.MustParseAddr("192.0.2.2")
	for header, want := range map[string]bool{
		got.TURN[0].Username + " " + got.TURN[0].Password:   true,
		got.TURN[0].Username + " " + "wrong":                false,
		"1700000900:" + pair + ".1 " + got.TURN[0].Password: false,
		got.TURN[0].Username:                                false, "": false, ":. ": false,
	} {
		q.r.Header.Set(relayHeader, header)
		renewed, ok := s.renewed(q)
		if ok != want || ok && renewed.TURN[0].Username != "1700173760:"+pair+".0" {
			t.Errorf("renewed for %q: got %+v, %v, want %v", header, renewed, ok, want)
		}
	}
	if seen[pair] != q.addr {
		t.Errorf("the relay knows %v after it was renewed, want %v", seen[pair], q.addr)
	}
}

func TestTURNURL(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ url, host, want string }{
		{"turn::3478?transport=udp", "meet.example:8080", "turn:meet.example:3478?transport=udp"},
		{"turn::3478?transport=udp", "[2001:db8::1]:80", "turn:[2001:db8::1]:3478?transport=udp"},
		{"turn::3478", "2001:db8::1", "turn:[2001:db8::1]:3478"},
		{"turns:", "h", "turns:h"},
		{"turns:?transport=tcp", "h", "turns:h?transport=tcp"},
		{"turn:other:1", "h", "turn:other:1"},
		{"turn::3478", "a/b", ""},
		{"turn::3478", "", ""},
	} {
		if got := turnURL(c.url, c.host); got != c.want {
			t.Errorf("turnURL(%q, %q) = %q, want %q", c.url, c.host, got, c.want)
		}
	}
}
