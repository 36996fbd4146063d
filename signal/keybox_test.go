package signal_test

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"adit/signal"
	"adit/signal/rendezvous"
)

func newKey(t testing.TB) (private, public [32]byte) {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(k.Bytes()), [32]byte(k.PublicKey().Bytes())
}

func newServer(t testing.TB, cfg rendezvous.Config) *signal.Client {
	t.Helper()
	server := rendezvous.New(cfg)
	web := httptest.NewServer(server.Handler())
	t.Cleanup(func() {
		server.Close()
		web.CloseClientConnections()
		web.Close()
	})
	return &signal.Client{URL: web.URL}
}

func TestProveKey(t *testing.T) {
	private, public := newKey(t)
	other, _ := newKey(t)
	server, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	name, err := signal.KeyNameOf(public)
	if err != nil {
		t.Fatal(err)
	}
	if name == signal.KeyName(public) {
		t.Error("the mailbox is named by the key itself")
	}
	b := [32]byte(server.PublicKey().Bytes())
	for _, tt := range []struct {
		what        string
		private     [32]byte
		nonce, host string
		ok          bool
	}{
		{"the holder", private, "nonce", "meet.example.org", true},
		{"the holder, in capitals", private, "nonce", "Meet.Example.ORG", true},
		{"somebody else", other, "nonce", "meet.example.org", false},
		{"another nonce", private, "noncf", "meet.example.org", false},
		{"a proof for another host", private, "nonce", "meet.example.com", false},
	} {
		proof, err := signal.ProveKey(tt.private, b, []byte(tt.nonce), tt.host)
		if err != nil {
			t.Fatal(err)
		}
		if err := signal.CheckKey(server, name, []byte("nonce"), "meet.example.org", proof); (err == nil) != tt.ok || err != nil && !errors.Is(err, signal.ErrClaim) {
			t.Errorf("%s: got %v", tt.what, err)
		}
	}
	if _, err := signal.ProveKey(private, [32]byte{}, nil, ""); err == nil {
		t.Error("a server's key of low order is taken")
	}
	if _, err := signal.KeyNameOf([32]byte{1}); err == nil {
		t.Error("a public key of low order has a mailbox")
	}
}

// newBox returns the mailbox of a new key.
func newBox(t *testing.T, client *signal.Client) (box *signal.KeyBox, public [32]byte) {
	t.Helper()
	private, public := newKey(t)
	box, err := client.KeyBox(private, public)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = box.Close() })
	return box, public
}

// TestKeyBox: the holder of a key listens, another offers, and they have a room.
func TestKeyBox(t *testing.T) {
	client := newServer(t, rendezvous.Config{})
	box, public := newBox(t, client)
	ctx := within(t, 20*time.Second)
	door, err := client.KeyDoor(public)
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close()
	if _, err := door.Challenge(ctx, 0); !errors.Is(err, signal.ErrNobody) {
		t.Errorf("before anybody listens: got %v, want %v", err, signal.ErrNobody)
	}
	if _, err := door.Offer(ctx, signal.Message{Kind: signal.KindOffer, Body: []byte("hello")}); !errors.Is(err, signal.ErrNobody) {
		t.Errorf("an offer before anybody listens: got %v, want %v", err, signal.ErrNobody)
	}
	if _, err := box.Poll(ctx, [16]byte{}); !errors.Is(err, signal.ErrUnclaimed) {
		t.Errorf("a poll before the claim: got %v, want %v", err, signal.ErrUnclaimed)
	}
	if err := box.Claim(ctx); err != nil {
		t.Fatal(err)
	}

	want := [16]byte{3: 7}
	met := make(chan *signal.Room, 1)
	go func() {
		defer close(met)
		c, err := door.Challenge(ctx, 10*time.Second)
		if err != nil || c != want {
			t.Errorf("challenge: got %x and %v, want %x", c, err, want)
			return
		}
		room, err := door.Offer(ctx, signal.Message{Kind: signal.KindOffer, Body: []byte("hello")})
		if err != nil {
			t.Error(err)
			return
		}
		met <- room
	}()
	var offers []signal.KeyOffer
	for len(offers) == 0 && err == nil {
		offers, err = box.Poll(ctx, want)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := string(offers[0].Message.Body); got != "hello" {
		t.Fatalf("offer: got %q", got)
	}
	mine, err := box.Accept(ctx, offers[0], signal.Message{Kind: signal.KindAnswer, Body: []byte("come in")})
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	theirs, ok := <-met
	if !ok {
		t.FailNow()
	}
	defer theirs.Close()
	if m, err := theirs.Receive(ctx); err != nil || string(m.Body) != "come in" {
		t.Errorf("answer: got %q and %v", m.Body, err)
	}
	for _, way := range [][2]*signal.Room{{mine, theirs}, {theirs, mine}} {
		if err := way[0].Send(ctx, signal.Message{Kind: signal.KindCandidates, Body: []byte("more")}); err != nil {
			t.Fatal(err)
		}
		if m, err := way[1].Receive(ctx); err != nil || string(m.Body) != "more" {
			t.Errorf("got %q and %v", m.Body, err)
		}
	}
	if _, err := box.Accept(ctx, offers[0], signal.Message{Kind: signal.KindAnswer}); !errors.Is(err, signal.ErrNobody) {
		t.Errorf("accepted again: got %v, want %v", err, signal.ErrNobody)
	}
}

// Whoever proves his key last is the listener, and the one before hears so at once.
func TestKeyBoxReplaced(t *testing.T) {
	client := newServer(t, rendezvous.Config{})
	private, public := newKey(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var box [2]*signal.KeyBox
	for i := range box {
		var err error
		if box[i], err = client.KeyBox(private, public); err != nil {
			t.Fatal(err)
		}
		defer box[i].Close()
	}
	if err := box[0].Claim(ctx); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := box[0].Poll(ctx, [16]byte{1})
		ended <- err
	}()
	door, err := client.KeyDoor(public)
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close()
	if _, err := door.Challenge(ctx, 10*time.Second); err != nil { // he polls
		t.Fatal(err)
	}
	// An offer to the first listener is nothing to the second: its challenge is not his.
	offered := make(chan error, 1)
	go func() {
		_, err := door.Offer(ctx, signal.Message{Kind: signal.KindOffer})
		offered <- err
	}()
	if err := box[1].Claim(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil && !errors.Is(err, signal.ErrReplaced) {
		t.Errorf("the first listener: got %v, want %v", err, signal.ErrReplaced)
	}
	if _, err := box[0].Poll(ctx, [16]byte{1}); !errors.Is(err, signal.ErrReplaced) {
		t.Errorf("the first listener again: got %v, want %v", err, signal.ErrReplaced)
	}
	if err := <-offered; !errors.Is(err, signal.ErrNobody) {
		t.Errorf("an offer meanwhile: got %v, want %v", err, signal.ErrNobody)
	}
}

// A proof that passes through another host than the one it was made for is refused: see ProveKey.
func TestKeyBoxHost(t *testing.T) {
	server := rendezvous.New(rendezvous.Config{})
	defer server.Close()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Host = "other.example.org"
		server.Handler().ServeHTTP(w, r)
	}))
	defer web.Close()
	private, public := newKey(t)
	box, err := (&signal.Client{URL: web.URL}).KeyBox(private, public)
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	if err := box.Claim(t.Context()); !errors.Is(err, signal.ErrClaim) {
		t.Errorf("got %v, want %v", err, signal.ErrClaim)
	}
}

// A proof is for the host that the rendezvous is asked as, which is not always written as in the URL.
func TestKeyBoxHostWritten(t *testing.T) {
	server := rendezvous.New(rendezvous.Config{})
	defer server.Close()
	web := httptest.NewServer(server.Handler())
	defer web.Close()
	private, public := newKey(t)
	for _, host := range []string{"meet.example", "MEET.example", "t\u00fcr.example:8080", "[fe80::1%25eth0]", "[fe80::1%25eth0]:8080", "[::1]:8080"} {
		// Wherever that host is, the connection leads to the server.
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", web.Listener.Addr().String())
		}}
		client := &signal.Client{URL: "http://" + host, HTTP: &http.Client{Transport: transport}}
		box, err := client.KeyBox(private, public)
		if err != nil {
			t.Fatal(err)
		}
		if err := box.Claim(t.Context()); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		if err := box.Close(); err != nil {
			t.Error(err)
		}
		transport.CloseIdleConnections()
	}
}

// Offers are accepted by several goroutines at once, while the mailbox is claimed again: each Accept finds the claim.
func TestKeyBoxAcceptsAtOnce(t *testing.T) {
	client := newServer(t, rendezvous.Config{Limits: rendezvous.Limits{RequestsPerMinute: 1e6, RoomsPerMinute: 1e6}})
	box, _ := newBox(t, client)
	ctx := within(t, 20*time.Second)
	if _, err := box.Accept(ctx, signal.KeyOffer{}, signal.Message{Kind: signal.KindAnswer}); !errors.Is(err, signal.ErrUnclaimed) {
		t.Errorf("before the claim: got %v, want %v", err, signal.ErrUnclaimed)
	}
	if err := box.Claim(ctx); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				gone, stop := context.WithCancel(ctx)
				stop() // so nothing is sent
				if _, err := box.Accept(gone, signal.KeyOffer{}, signal.Message{Kind: signal.KindAnswer}); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want %v", err, context.Canceled)
				}
			}
		})
	}
	for range 10 {
		if err := box.Claim(ctx); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
}
