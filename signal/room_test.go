package signal_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/internal/testtier"
	"adit/signal"
	"adit/signal/rendezvous"
)

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// serve runs a rendezvous; wrap, if not nil, stands in front of it.
func serve(t *testing.T, cfg rendezvous.Config, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	s := rendezvous.New(cfg)
	h := s.Handler()
	if wrap != nil {
		h = wrap(h)
	}
	web := httptest.NewServer(h)
	t.Cleanup(func() {
		s.Close()
		web.CloseClientConnections()
		web.Close()
	})
	return web.URL
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// meet returns a creator's and a joiner's room.
func meet(t *testing.T, url string) (a, b *signal.Room) {
	t.Helper()
	ctx := within(t, 10*time.Second)
	a, err := (&signal.Client{URL: url}).Create(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	b, err = (&signal.Client{URL: url}).Join(ctx, a.Nameplate())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return a, b
}

func say(t *testing.T, r *signal.Room, kind signal.Kind, text string) {
	t.Helper()
	if err := r.Send(within(t, 10*time.Second), signal.Message{Kind: kind, Body: []byte(text)}); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, r *signal.Room, kind signal.Kind, text string) {
	t.Helper()
	m, err := r.Receive(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if m.Kind != kind || string(m.Body) != text {
		t.Fatalf("got %v %q, want %v %q", m.Kind, m.Body, kind, text)
	}
}

func TestMeeting(t *testing.T) {
	t.Parallel()
	url := serve(t, rendezvous.Config{}, nil)
	ctx := within(t, 10*time.Second)
	var a signal.Channel
	room, err := (&signal.Client{URL: url}).Create(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer room.Close()
	a = room
	if !a.Trickles() {
		t.Error("a room does not trickle")
	}
	if left := time.Until(room.Expires()); left < 9*time.Minute || left > 11*time.Minute {
		t.Errorf("room expires in %v, want ten minutes", left)
	}
	say(t, room, signal.KindPAKE, "pake")
	joined, err := (&signal.Client{URL: url}).Join(ctx, room.Nameplate())
	if err != nil {
		t.Fatal(err)
	}
	defer joined.Close()
	hear(t, joined, signal.KindPAKE, "pake")
	say(t, joined, signal.KindOffer, "offer")
	hear(t, room, signal.KindOffer, "offer")
	say(t, room, signal.KindAnswer, "answer")
	hear(t, joined, signal.KindAnswer, "answer")
	for i := range 10 {
		say(t, room, signal.KindCandidates, fmt.Sprint("c", i))
		say(t, joined, signal.KindCandidates, fmt.Sprint("j", i))
	}
	for i := range 10 {
		hear(t, joined, signal.KindCandidates, fmt.Sprint("c", i))
		hear(t, room, signal.KindCandidates, fmt.Sprint("j", i))
	}

	say(t, room, signal.KindAbort, "last")
	room.Close()
	hear(t, joined, signal.KindAbort, "last") // what was sent before leaving still arrives
	if _, err := joined.Receive(ctx); !errors.Is(err, signal.ErrPeerGone) {
		t.Errorf("receive after the peer left: %v, want ErrPeerGone", err)
	}
	if err := joined.Send(ctx, signal.Message{Kind: signal.KindAbort}); !errors.Is(err, signal.ErrPeerGone) {
		t.Errorf("send after the peer left: %v, want ErrPeerGone", err)
	}
	joined.Close()
	if _, err := (&signal.Client{URL: url}).Join(ctx, room.Nameplate()); !errors.Is(err, signal.ErrRoomTaken) {
		t.Errorf("join a used room: %v, want ErrRoomTaken", err)
	}
}

// The joiner comes first to everything: its poll is there before the creator's message.
func TestJoinBeforeFirstMessage(t *testing.T) {
	t.Parallel()
	a, b := meet(t, serve(t, rendezvous.Config{}, nil))
	say(t, a, signal.KindPAKE, "late")
	hear(t, b, signal.KindPAKE, "late")
}

func TestSecondJoiner(t *testing.T) {
	t.Parallel()
	url := serve(t, rendezvous.Config{}, nil)
	a, b := meet(t, url)
	if _, err := (&signal.Client{URL: url}).Join(within(t, 10*time.Second), a.Nameplate()); !errors.Is(err, signal.ErrRoomTaken) {
		t.Fatalf("second joiner: %v, want ErrRoomTaken", err)
	}
	say(t, b, signal.KindOffer, "still here") // the room lives on
	hear(t, a, signal.KindOffer, "still here")
}

func TestNoRoom(t *testing.T) {
	t.Parallel()
	url := serve(t, rendezvous.Config{}, nil)
	for _, nameplate := range []string{"1234", "", "12", "12a4", "../../x", "12345678901"} {
		if _, err := (&signal.Client{URL: url}).Join(within(t, 10*time.Second), nameplate); !errors.Is(err, signal.ErrNoRoom) {
			t.Errorf("join %q: %v, want ErrNoRoom", nameplate, err)
		}
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	a, b := meet(t, serve(t, rendezvous.Config{}, nil))
	got := make(chan error, 1)
	go func() {
		_, err := a.Receive(context.Background())
		got <- err
	}()
	b.Close()
	if err := <-got; !errors.Is(err, signal.ErrPeerGone) {
		t.Errorf("receive as the peer leaves: %v, want ErrPeerGone", err)
	}
	a.Close()
	a.Close()
	if _, err := a.Receive(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("receive after Close: %v, want net.ErrClosed", err)
	}
	if err := a.Send(t.Context(), signal.Message{Kind: signal.KindOffer}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("send after Close: %v, want net.ErrClosed", err)
	}
}

func TestCloseUnblocksReceive(t *testing.T) {
	t.Parallel()
	a, _ := meet(t, serve(t, rendezvous.Config{}, nil))
	got := make(chan error, 1)
	go func() {
		_, err := a.Receive(context.Background())
		got <- err
	}()
	a.Close()
	if err := <-got; !errors.Is(err, net.ErrClosed) {
		t.Errorf("receive: %v, want net.ErrClosed", err)
	}
}

func TestReceiveContext(t *testing.T) {
	t.Parallel()
	a, b := meet(t, serve(t, rendezvous.Config{}, nil))
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := a.Receive(ctx); !errors.Is(err, cause) {
		t.Errorf("receive: %v, want the cause", err)
	}
	say(t, b, signal.KindOffer, "x") // nothing is lost by that
	hear(t, a, signal.KindOffer, "x")
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Now()}
	url := serve(t, rendezvous.Config{Now: c.Now}, nil)
	a, b := meet(t, url)
	c.add(10*time.Minute + time.Second)
	ctx := within(t, 10*time.Second)
	if err := a.Send(ctx, signal.Message{Kind: signal.KindPAKE}); !errors.Is(err, signal.ErrNoRoom) {
		t.Errorf("send to an expired room: %v, want ErrNoRoom", err)
	}
	if _, err := b.Receive(ctx); !errors.Is(err, signal.ErrNoRoom) { // its poll heard of it at once
		t.Errorf("receive in an expired room: %v, want ErrNoRoom", err)
	}
	if _, err := (&signal.Client{URL: url}).Join(ctx, a.Nameplate()); !errors.Is(err, signal.ErrNoRoom) {
		t.Errorf("join an expired room: %v, want ErrNoRoom", err)
	}
}

// The client's own clock ends a room too, whatever happens to the rendezvous.
func TestExpiryWhileUnreachable(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	url := serve(t, rendezvous.Config{TTL: time.Second}, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if down.Load() {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	a, _ := meet(t, url)
	down.Store(true)
	ctx := within(t, 10*time.Second)
	if err := a.Send(ctx, signal.Message{Kind: signal.KindPAKE}); !errors.Is(err, signal.ErrNoRoom) {
		t.Errorf("send: %v, want ErrNoRoom", err)
	}
	if _, err := a.Receive(ctx); !errors.Is(err, signal.ErrNoRoom) {
		t.Errorf("receive: %v, want ErrNoRoom", err)
	}
}

// Every kind of trouble on the way, again and again: what is sent arrives once, and in order.
func TestTroubleOnTheWay(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	var mu sync.Mutex
	count := make(map[string]int)
	url := serve(t, rendezvous.Config{}, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			who := r.Method + r.Header.Get("Authorization")
			count[who]++
			n := count[who]
			mu.Unlock()
			if r.Method == http.MethodDelete {
				h.ServeHTTP(w, r)
				return
			}
			switch n % 4 {
			case 0: // down for a moment
				w.WriteHeader(http.StatusServiceUnavailable)
			case 1: // done, but the reply is lost
				if r.Method != http.MethodGet {
					h.ServeHTTP(httptest.NewRecorder(), r)
				}
				panic(http.ErrAbortHandler)
			case 2: // a proxy gives up
				w.WriteHeader(http.StatusGatewayTimeout)
			default:
				h.ServeHTTP(w, r)
			}
		})
	})
	a, b := meet(t, url)
	for i := range 5 {
		say(t, a, signal.KindCandidates, fmt.Sprint(i))
	}
	for i := range 5 {
		hear(t, b, signal.KindCandidates, fmt.Sprint(i))
	}
}

// A Send that ended unclearly does not stand in the way of the next one.
func TestSendAfterUnclearEnd(t *testing.T) {
	t.Parallel()
	var swallow atomic.Bool
	put := make(chan struct{}, 1)
	url := serve(t, rendezvous.Config{}, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && swallow.Load() {
				h.ServeHTTP(httptest.NewRecorder(), r)
				put <- struct{}{}
				<-r.Context().Done()
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	a, b := meet(t, url)
	swallow.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	sent := make(chan error, 1)
	go func() { sent <- a.Send(ctx, signal.Message{Kind: signal.KindOffer, Body: []byte("one")}) }()
	<-put
	cancel()
	if err := <-sent; !errors.Is(err, context.Canceled) {
		t.Fatalf("send: %v, want context.Canceled", err)
	}
	swallow.Store(false)
	say(t, a, signal.KindAbort, "two")
	hear(t, b, signal.KindOffer, "one")
	hear(t, b, signal.KindAbort, "two")
}

// The rendezvous goes away and comes back at the same address with the same store.
func TestRestart(t *testing.T) {
	t.Parallel()
	store := rendezvous.NewMemory(rendezvous.Limits{}, nil)
	run := func(addr string) (stop func(), at string) {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		s := rendezvous.New(rendezvous.Config{Store: store})
		web := s.HTTPServer("")
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = web.Serve(l)
		}()
		return func() {
			s.Close()
			web.Close()
			<-served
		}, l.Addr().String()
	}
	stop, addr := run("127.0.0.1:0")
	a, b := meet(t, "http://"+addr)
	say(t, a, signal.KindPAKE, "before")
	hear(t, b, signal.KindPAKE, "before")
	stop()
	sent := make(chan error, 1)
	go func() {
		sent <- b.Send(within(t, 20*time.Second), signal.Message{Kind: signal.KindOffer, Body: []byte("between")})
	}()
	stop, _ = run(addr)
	defer stop()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	hear(t, a, signal.KindOffer, "between")
	a.Close()
	b.Close()
}

// A message to a peer that waits costs one request and no new connection.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var log []string
	url := serve(t, rendezvous.Config{}, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				mu.Lock()
				log = append(log, r.Method)
				mu.Unlock()
			}
			h.ServeHTTP(w, r)
		})
	})
	ctx := within(t, 10*time.Second)
	a, err := (&signal.Client{URL: url}).Create(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	say(t, a, signal.KindPAKE, "p")
	var dials atomic.Int64
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	defer transport.CloseIdleConnections()
	b, err := (&signal.Client{URL: url, HTTP: &http.Client{Transport: transport}}).Join(ctx, a.Nameplate())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	hear(t, b, signal.KindPAKE, "p")
	say(t, b, signal.KindOffer, "o")
	hear(t, a, signal.KindOffer, "o")
	say(t, a, signal.KindAnswer, "a")
	hear(t, b, signal.KindAnswer, "a")
	mu.Lock()
	defer mu.Unlock()
	if got, want := fmt.Sprint(log), "[POST PUT POST PUT PUT]"; got != want {
		t.Errorf("requests %v, want %v", got, want)
	}
	if n := dials.Load(); n > 2 {
		t.Errorf("the joiner opened %d connections, want 2", n)
	}
}

// A hostile server cannot make a room hold more than the protocol allows, nor make it spin.
func TestHostileServer(t *testing.T) {
	t.Parallel()
	const id = "0123456789abcdef0123456789abcdef"
	body := string(signal.Message{Kind: signal.KindCandidates, Body: []byte("x")}.Append(nil))
	for _, c := range []struct {
		name     string
		poll     func(w http.ResponseWriter)
		messages int
	}{
		{"endless messages", func(w http.ResponseWriter) { io.WriteString(w, body) }, 32},
		{"garbage", func(w http.ResponseWriter) { io.WriteString(w, "garbage") }, 0},
		{"too long", func(w http.ResponseWriter) { w.Write(make([]byte, 1<<20)) }, 0},
		{"refused", func(w http.ResponseWriter) { w.WriteHeader(http.StatusUnauthorized) }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.Method {
				case http.MethodPost:
					fmt.Fprintf(w, `{"nameplate":"1234","id":"%s","token":"%s","seconds":600}`, id, id)
				case http.MethodGet:
					c.poll(w)
				}
			}))
			defer web.Close()
			defer web.CloseClientConnections()
			ctx := within(t, 10*time.Second)
			r, err := (&signal.Client{URL: web.URL}).Create(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			n := 0
			for {
				if _, err = r.Receive(ctx); err != nil {
					break
				}
				n++
			}
			if ctx.Err() != nil || n != c.messages {
				t.Errorf("%d messages, then %v; want %d and an error at once", n, err, c.messages)
			}
		})
	}
}
