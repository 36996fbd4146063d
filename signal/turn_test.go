package signal_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"adit/signal"
	"adit/signal/rendezvous"
)

func TestRoomTURN(t *testing.T) {
	t.Parallel()
	url := serve(t, rendezvous.Config{TURN: rendezvous.TURN{
		URLs:   []string{"turn::3478?transport=udp", "turns:", "turn:relay.example:3479?transport=tcp"},
		Secret: []byte("a secret of the tests"),
	}}, nil)
	var _ signal.TURNSource = (*signal.Room)(nil)
	ctx := within(t, 10*time.Second)
	a, err := (&signal.Client{URL: url}).Create(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if s, err := a.TURN(ctx); !errors.Is(err, signal.ErrNoPeer) || s != nil {
		t.Errorf("alone: got %v, %v, want ErrNoPeer", s, err)
	}
	b, err := (&signal.Client{URL: url}).Join(ctx, a.Nameplate())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	atA, err := a.TURN(ctx)
	if err != nil {
		t.Fatal(err)
	}
	atB, err := b.TURN(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"turn:127.0.0.1:3478?transport=udp", "turns:127.0.0.1", "turn:relay.example:3479?transport=tcp"}
	var got []string
	for _, s := range atA {
		got = append(got, s.URL)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if len(atB) != 3 || atA[0].Username == atB[0].Username || atA[0].Password == atB[0].Password {
		t.Errorf("got %v and %v, want a credential for each side", atA, atB)
	}
	if again, err := a.TURN(ctx); err != nil || !slices.Equal(again, atA) {
		t.Errorf("asked again: got %v, %v, want %v", again, err, atA)
	}
}

// A rendezvous that knows of no relays, or not even of the question, has none.
func TestRoomWithoutTURN(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"none": nil,
		"older": func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/turn") {
					http.NotFound(w, r)
					return
				}
				h.ServeHTTP(w, r)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := meet(t, serve(t, rendezvous.Config{}, wrap))
			for _, r := range []*signal.Room{a, b} {
				if s, err := r.TURN(within(t, 10*time.Second)); err != nil || len(s) != 0 {
					t.Errorf("got %v, %v, want none", s, err)
				}
			}
		})
	}
}

// What a rendezvous says is not believed.
func TestRoomTURNGarbage(t *testing.T) {
	t.Parallel()
	answer := `{"turn":[{"url":"http://x","username":"u","password":"p"},{"url":"turn:x","username":"u","password":""},` +
		`{"url":"turn:x\u001b[2J","username":"u","password":"p"},{"url":"turn:` + strings.Repeat("x", 600) + `","username":"u","password":"p"},` +
		strings.Repeat(`{"url":"turn:good","username":"u","password":"p"},`, 20) + `{}]}`
	url := serve(t, rendezvous.Config{}, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/turn") {
				_, _ = w.Write([]byte(answer))
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	a, _ := meet(t, url)
	s, err := a.TURN(within(t, 10*time.Second))
	if err != nil || len(s) != 8 || s[0].URL != "turn:good" {
		t.Errorf("got %v, %v, want 8 good ones", s, err)
	}
	answer = "<html>"
	b, _ := meet(t, url)
	if s, err := b.TURN(within(t, 10*time.Second)); err == nil {
		t.Errorf("a web page: got %v, want an error", s)
	}
}
