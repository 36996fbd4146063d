package rendezvous

import (
	"context"
	"errors"
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

// The credential is that of draft-uberti-behave-turn-rest-00, ends when it should, is the same whenever
// it is asked for, and tells nothing about the room.
func TestTURNCredential(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	s := New(Config{TURN: TURN{URLs: []string{"turn:h"}, Secret: []byte("secret")}, Now: func() time.Time { return now }})
	defer s.Close()
	id := "0123456789abcdef0123456789abcdef"
	got := s.turnFor("x", id, 0, now.Add(10*time.Minute))
	// By hand: printf %s "adit turn ID 0" | sha256sum; printf %s USER | openssl dgst -sha1 -hmac secret -binary | base64
	if u, p := got.TURN[0].Username, got.TURN[0].Password; u != "1700043800:3948f3d85ad5cacdb676b63b" || p != "IiEEXw9oMHmEAJT8Joory5i9/DU=" || got.Seconds != 43800 {
		t.Errorf("got %q, %q, %d s", u, p, got.Seconds)
	}
	now = now.Add(time.Minute)
	if again := s.turnFor("y", id, 0, now.Add(9*time.Minute)); again.TURN[0] != got.TURN[0] || again.Seconds != 43740 {
		t.Errorf("asked again: got %+v, want %+v", again, got)
	}
	if other := s.turnFor("x", id, 1, now.Add(9*time.Minute)); other.TURN[0].Username == got.TURN[0].Username {
		t.Error("both sides have one username")
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
