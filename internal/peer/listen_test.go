package peer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/internal/event"
	"adit/internal/handshake"
	"adit/internal/testtier"
	"adit/signal"
	"adit/signal/rendezvous"
)

// A host is a Listener under test and the sessions that it took, which answer nothing by themselves.
type host struct {
	*Listener
	key    *handshake.KeyPair
	events chan event.Event
}

// listen lets the holders of keys in, by name.
func listen(t *testing.T, key *handshake.KeyPair, peers map[[32]byte]string, change func(*Config), urls ...string) *host {
	t.Helper()
	h := &host{key: key, events: make(chan event.Event, 1024)}
	cfg := Config{
		Signals: urls, Key: key.Private, Loopback: true, STUN: []string{}, Targets: []string{"22"},
		Admit: func(k [32]byte) (string, bool) { n, ok := peers[k]; return n, ok },
		Events: func(e event.Event) {
			select {
			case h.events <- e:
			default: // far more than one test looks at
			}
		},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if h.Listener, err = Listen(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// accept waits for a session.
func (h *host) accept(t *testing.T) *Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := h.Accept(ctx)
	if err != nil {
		t.Fatalf("Accept: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// event waits for the next event of that name.
func (h *host) event(t *testing.T, name string) event.Event {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case e := <-h.events:
			if e.Name == name {
				return e
			}
		case <-limit:
			t.Fatalf("no event %q", name)
		}
	}
}

// to is how somebody with a key dials.
func to(key, peer *handshake.KeyPair, urls ...string) Config {
	return Config{Role: Connecter, Signals: urls, Key: key.Private, Peer: peer.Public, PeerName: "home", STUN: []string{}}
}

func TestByKey(t *testing.T) {
	t.Parallel()
	home, away := handshake.NewKeyPair(), handshake.NewKeyPair()
	url := meetingPlace(t)
	x := dial(t.Context(), to(away, home, url)) // nobody is there yet
	h := listen(t, home, map[[32]byte]string{away.Public: "laptop"}, nil, url)
	theirs := h.accept(t)
	mine := x.session(t)
	defer mine.Close()
	exchange(t, mine, theirs)
	exchange(t, theirs, mine)
	if k, kept := theirs.Key(); theirs.Name() != "laptop" || k != away.Public || !kept {
		t.Errorf("the listener takes its peer for %q with %x", theirs.Name(), k)
	}
	if k, _ := mine.Key(); mine.Name() != "home" || k != home.Public {
		t.Errorf("who dialled takes its peer for %q with %x", mine.Name(), k)
	}
	if got := mine.Targets(); len(got) != 1 || got[0] != "22" {
		t.Errorf("targets: got %q", got)
	}
	if got := h.Stats(); got != (ListenStats{Offers: 1, Opened: 1}) {
		t.Errorf("counts: got %+v", got)
	}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	if err := mine.Wait(); err != nil {
		t.Errorf("the peer said goodbye: %v", err)
	}
}

// The first code knows this side's public address too, although no rendezvous has told the listener yet whom to ask.
func TestFirstCodeAsksSTUN(t *testing.T) {
	t.Parallel()
	server := rendezvous.New(rendezvous.Config{STUN: []string{"127.0.0.1:9"}})
	held := make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/key/") {
			<-held
		}
		server.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		web.CloseClientConnections()
		web.Close()
		server.Close()
	})
	h := listen(t, handshake.NewKeyPair(), nil, func(c *Config) { c.Codes, c.STUN = true, nil }, web.URL)
	defer close(held)
	h.event(t, event.Code)
	h.mu.Lock()
	b := h.base
	h.mu.Unlock()
	if got := b.servers(); len(got) != 1 {
		t.Errorf("servers to ask: %q, want the one that the rendezvous names", got)
	}
}

// Sessions of one listener share its sockets, and the end of one is not that of another.
func TestByKeySeveral(t *testing.T) {
	t.Parallel()
	home := handshake.NewKeyPair()
	url := meetingPlace(t)
	peers := map[[32]byte]string{}
	var keys []*handshake.KeyPair
	for _, name := range []string{"a", "b", "c"} {
		k := handshake.NewKeyPair()
		peers[k.Public] = name
		keys = append(keys, k)
	}
	h := listen(t, home, peers, nil, url)
	var mine []*Session
	theirs := map[string]*Session{}
	for _, k := range keys {
		x := dial(t.Context(), to(k, home, url))
		s := h.accept(t)
		theirs[s.Name()] = s
		mine = append(mine, x.session(t))
	}
	defer func() {
		for _, s := range mine {
			s.Close()
		}
	}()
	if theirs["a"].end.host != theirs["c"].end.host || theirs["a"].end.host.Port() != theirs["b"].end.host.Port() {
		t.Error("sessions have sockets of their own")
	}
	theirs["b"].Close()
	if err := mine[1].Wait(); err != nil {
		t.Error(err)
	}
	exchange(t, mine[0], theirs["a"])
	h.Close() // what was accepted goes on
	exchange(t, mine[2], theirs["c"])
}

// A stranger, and one who plays an old offer again, cost no candidate and hear nothing.
func TestByKeyStranger(t *testing.T) {
	t.Parallel()
	home, away, friend := handshake.NewKeyPair(), handshake.NewKeyPair(), handshake.NewKeyPair()
	url := meetingPlace(t)
	h := listen(t, home, map[[32]byte]string{friend.Public: "friend"}, nil, url)
	ctx, cancel := context.WithCancelCause(t.Context())
	x := dial(ctx, to(away, home, url))
	tick := time.NewTicker(10 * time.Millisecond) // counts tell nobody that they change
	defer tick.Stop()
	for h.Stats().Strangers == 0 {
		select {
		case <-x.done:
			t.Fatalf("a stranger's call ended: %v", x.err)
		case <-tick.C:
		}
	}
	client := &signal.Client{URL: url}
	door, err := client.KeyDoor(home.Public)
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close()
	challenge, err := door.Challenge(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	noise, err := handshake.NewInitiator(handshake.Config{Mode: handshake.ModeKey, Static: friend, Peer: home.Public, Challenge: challenge})
	if err != nil {
		t.Fatal(err)
	}
	offer, err := noise.Offer([]byte("no description"))
	if err != nil {
		t.Fatal(err)
	}
	brief, stop := context.WithCancel(t.Context())
	for range 2 {
		go func() { _, _ = door.Offer(brief, signal.Message{Kind: signal.KindOffer, Body: offer}) }() // ended by brief
	}
	for h.Stats().Replays == 0 {
		<-tick.C
	}
	stop()
	cancel(errors.New("enough"))
	<-x.done
	if got, want := h.Stats(), (ListenStats{Offers: 3, Strangers: 1, Garbage: 1, Replays: 1}); got != want {
		t.Errorf("counts: got %+v, want %+v", got, want)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.base != nil {
		t.Error("sockets were opened for a stranger")
	}
}

// A stranger who set himself a timeout is told what may be the reason.
func TestByKeyUnanswered(t *testing.T) {
	t.Parallel()
	home := handshake.NewKeyPair()
	cfg := to(handshake.NewKeyPair(), home, meetingPlace(t))
	cfg.Timeout = 300 * time.Millisecond
	if got := dial(t.Context(), cfg).class(t); got != ClassTimeout {
		t.Errorf("class %d, want %d", got, ClassTimeout)
	}
}

// Who waits for an answer learns that the peer is another process by now, which cannot read the offer.
func TestByKeyReplaced(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	home := handshake.NewKeyPair()
	client := &signal.Client{URL: meetingPlace(t)}
	defer client.CloseIdle()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	process := func() [16]byte {
		c := handshake.NewGuard().Challenge()
		box, err := client.KeyBox(home.Private, home.Public)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { box.Close() })
		if err := box.Claim(ctx); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { _, _ = box.Poll(ctx, c) }) // publishes it, and ends with ctx
		return c
	}
	door, err := client.KeyDoor(home.Public)
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close()
	first := process()
	if c, err := door.Challenge(ctx, 10*time.Second); err != nil || c != first {
		t.Fatalf("%x, %v", c, err)
	}
	brief, end := context.WithTimeout(ctx, replacedAfter+replacedAfter/3)
	if replaced(brief, door, [processBytes]byte(first[:])) {
		t.Error("replaced by itself")
	}
	end()
	process()
	if !replaced(ctx, door, [processBytes]byte(first[:])) {
		t.Error("another process was not noticed")
	}
}

// Of two rendezvous one is away on either side, and both use the other; the one away comes back.
func TestByKeyTwoRendezvous(t *testing.T) {
	t.Parallel()
	home, away := handshake.NewKeyPair(), handshake.NewKeyPair()
	dead, alive := "http://127.0.0.1:1", meetingPlace(t)
	h := listen(t, home, map[[32]byte]string{away.Public: "laptop"}, nil, dead, alive)
	x := dial(t.Context(), to(away, home, dead, alive))
	theirs := h.accept(t)
	mine := x.session(t)
	defer mine.Close()
	exchange(t, mine, theirs)
}

// moving is a rendezvous at one address that can be away, and loses everything then.
type moving struct {
	mu     sync.Mutex
	server *rendezvous.Server
}

func (m *moving) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	s := m.server
	m.mu.Unlock()
	if s == nil {
		panic(http.ErrAbortHandler)
	}
	s.Handler().ServeHTTP(w, r)
}

func (m *moving) set(s *rendezvous.Server) {
	m.mu.Lock()
	old := m.server
	m.server = s
	m.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

func TestByKeyRendezvousRestarts(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	home, away := handshake.NewKeyPair(), handshake.NewKeyPair()
	m := &moving{}
	web := httptest.NewServer(m)
	t.Cleanup(func() {
		m.set(nil)
		web.CloseClientConnections()
		web.Close()
	})
	h := listen(t, home, map[[32]byte]string{away.Public: "laptop"}, nil, web.URL)
	for n := range 3 {
		began := time.Now()
		x := dial(t.Context(), to(away, home, web.URL))
		h.event(t, event.Unreachable)
		m.set(rendezvous.New(rendezvous.Config{}))
		theirs := h.accept(t)
		mine := x.session(t)
		t.Logf("round %d: met after %v", n, time.Since(began).Round(time.Millisecond))
		exchange(t, mine, theirs)
		mine.Close()
		m.set(nil)
		web.CloseClientConnections()
	}
}

// The process of a listener dies and another takes its place: who dialled notices, and meets the new one.
func TestByKeyListenerRestarts(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	home, away := handshake.NewKeyPair(), handshake.NewKeyPair()
	url := meetingPlace(t)
	peers := map[[32]byte]string{away.Public: "laptop"}
	first := listen(t, home, peers, nil, url)
	x := dial(t.Context(), to(away, home, url))
	theirs := first.accept(t)
	mine := x.session(t)
	defer mine.Close()
	theirs.end.host.SetHandler(nil) // as good as dead
	second := listen(t, home, peers, nil, url)
	began := time.Now()
	var e *Error
	if err := mine.Wait(); !errors.As(err, &e) || e.Class != ClassGone || !errors.Is(err, ErrRestarted) {
		t.Errorf("got %v, want %v", err, ErrRestarted)
	}
	t.Logf("noticed after %v", time.Since(began).Round(time.Millisecond))
	if _, err := first.Accept(t.Context()); !errors.Is(err, ErrListening) {
		t.Errorf("the listener before: got %v, want %v", err, ErrListening)
	}
	x = dial(t.Context(), to(away, home, url))
	again := second.accept(t)
	mine = x.session(t)
	defer mine.Close()
	exchange(t, mine, again)
}

// Codes beside keys: whoever is given one comes in over the same sockets, and then there is the next.
func TestListenCodes(t *testing.T) {
	t.Parallel()
	home, away := handshake.NewKeyPair(), handshake.NewKeyPair()
	url := meetingPlace(t)
	h := listen(t, home, map[[32]byte]string{away.Public: "laptop"}, func(c *Config) { c.Codes, c.Keep = true, true }, url)
	x := dial(t.Context(), to(away, home, url))
	h.accept(t)
	s := x.session(t)
	defer s.Close()
	for range 2 {
		guest := handshake.NewKeyPair()
		x := dial(t.Context(), Config{Role: Connecter, Signal: url, Code: h.event(t, event.Code).Code, STUN: []string{}, Keep: true, Key: guest.Private})
		theirs := h.accept(t)
		mine := x.session(t)
		defer mine.Close()
		exchange(t, mine, theirs)
		if k, kept := theirs.Key(); theirs.Name() != "" || k != guest.Public || !kept {
			t.Errorf("the guest is %q with %x, kept %v", theirs.Name(), k, kept)
		}
		if k, kept := mine.Key(); k != home.Public || !kept {
			t.Errorf("the listener's key is %x, kept %v", k, kept)
		}
	}
}

// When the network changes, who listens and who calls ask again at once, and over new connections.
func TestByKeyNetworkChanges(t *testing.T) {
	t.Parallel()
	home, away := handshake.NewKeyPair(), handshake.NewKeyPair()
	server := rendezvous.New(rendezvous.Config{})
	defer server.Close()
	polls := make(chan string, 100)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.RawQuery, "wait") {
			polls <- r.RemoteAddr
		}
		server.Handler().ServeHTTP(w, r)
	}))
	defer web.Close()
	defer web.CloseClientConnections()
	h := listen(t, home, map[[32]byte]string{away.Public: "laptop"}, nil, web.URL)
	before := <-polls
	h.fresh.changed()
	if after := <-polls; after == before {
		t.Error("the listener asks over the connection that it had")
	}
	x := dial(t.Context(), to(away, home, web.URL))
	s := h.accept(t)
	defer x.session(t).Close()
	exchange(t, x.session(t), s)
}

func TestListenNeedsAList(t *testing.T) {
	if _, err := Listen(Config{Signals: []string{"http://localhost"}}); err == nil {
		t.Error("no list, and no error")
	}
	if _, err := Listen(Config{Admit: func([32]byte) (string, bool) { return "", false }}); err == nil {
		t.Error("no rendezvous, and no error")
	}
	h := listen(t, handshake.NewKeyPair(), nil, nil, "http://127.0.0.1:1")
	h.Close()
	if _, err := h.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: got %v, want %v", err, net.ErrClosed)
	}
}

// A rendezvous is started again while a code waits there: the exposer gets another code and says so, and the meeting
// takes place.
func TestCodeRendezvousRestarts(t *testing.T) {
	t.Parallel()
	m := &moving{}
	web := httptest.NewServer(m)
	t.Cleanup(func() {
		m.set(nil)
		web.CloseClientConnections()
		web.Close()
	})
	m.set(rendezvous.New(rendezvous.Config{}))
	exposer := dial(t.Context(), Config{Role: Exposer, Signal: web.URL, STUN: []string{}})
	first := exposer.event(t, event.Code)
	if first.State != "" {
		t.Errorf("the first code comes with state %q, want none", first.State)
	}
	m.set(nil)
	web.CloseClientConnections()
	m.set(rendezvous.New(rendezvous.Config{}))
	second := exposer.event(t, event.Code)
	if second.Code == first.Code || second.State != "again" || second.Message == "" {
		t.Errorf("after a restart: got %+v, want another code and why", second)
	}
	joiner := dial(t.Context(), Config{Role: Connecter, Signal: web.URL, Code: second.Code, STUN: []string{}})
	theirs, mine := exposer.session(t), joiner.session(t)
	defer theirs.Close()
	defer mine.Close()
	exchange(t, mine, theirs)
}
