package turn

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun"

	"adit/internal/outbox"
)

// A fakeServer answers requests on a pipe, each write of which is one datagram.
type fakeServer struct {
	conn net.Conn
	key  stun.MessageIntegrity

	mu        sync.Mutex
	refreshes int
	refresh   func(s *fakeServer, m *stun.Message) // answers one; nil grants it
}

func startFake(t *testing.T) (*fakeServer, Config) {
	t.Helper()
	near, far := net.Pipe()
	s := &fakeServer{conn: far, key: stun.NewLongTermIntegrity("user", "adit", "secret")}
	var wg sync.WaitGroup
	wg.Go(s.serve)
	t.Cleanup(func() { far.Close(); wg.Wait() })
	return s, Config{
		Server: Server{URL: "turn:192.0.2.1", Username: "user", Password: "secret"},
		Dial:   func(context.Context, string, string) (net.Conn, error) { return near, nil },
	}
}

func (s *fakeServer) serve() {
	buf := make([]byte, maxMessage)
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			return
		}
		m := &stun.Message{Raw: append([]byte(nil), buf[:n]...)}
		if m.Decode() != nil {
			continue
		}
		switch {
		case s.key.Check(m) != nil:
			s.answer(m, stun.ClassErrorResponse, stun.CodeUnauthorized, stun.NewRealm("adit"), stun.NewNonce("nonce"))
		case m.Type.Method == stun.MethodAllocate:
			relayed := xorAddress{stun.AttrXORRelayedAddress, netip.MustParseAddrPort("192.0.2.1:5000")}
			s.answer(m, stun.ClassSuccessResponse, relayed, seconds(lifetime), s.key)
		default:
			s.mu.Lock()
			s.refreshes++
			f := s.refresh
			s.mu.Unlock()
			if f == nil {
				f = (*fakeServer).grant
			}
			f(s, m)
		}
	}
}

func (s *fakeServer) onRefresh(f func(s *fakeServer, m *stun.Message)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh = f
}

func (s *fakeServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refreshes
}

func (s *fakeServer) grant(m *stun.Message) {
	s.answer(m, stun.ClassSuccessResponse, seconds(lifetime), s.key)
}

func (s *fakeServer) answer(m *stun.Message, class stun.MessageClass, attrs ...stun.Setter) {
	setters := []stun.Setter{stun.NewTransactionIDSetter(m.TransactionID), stun.NewType(m.Type.Method, class)}
	r, err := stun.Build(append(setters, attrs...)...)
	if err != nil {
		panic(err)
	}
	_, _ = s.conn.Write(r.Raw) // fails when the client has closed
}

func silent(*fakeServer, *stun.Message) {}

// An allocation outlives outages as long as the server keeps it, and what others say in the server's name.
func TestRenewal(t *testing.T) {
	mismatch := []stun.Setter{stun.CodeAllocMismatch}
	for name, c := range map[string]struct {
		refresh func(s *fakeServer, m *stun.Message)
		during  time.Duration // how long the server does that, from the beginning
		ends    time.Duration // when the allocation ends; 0: never
	}{
		"a short outage at the renewal":          {silent, lifetime/2 + time.Minute, 0},
		"an outage until shortly before the end": {silent, lifetime - time.Minute, 0},
		"an outage for good":                     {silent, time.Hour, lifetime},
		"a forged error before the answer": {func(s *fakeServer, m *stun.Message) {
			s.answer(m, stun.ClassErrorResponse, mismatch...)
			s.grant(m)
		}, time.Hour, 0},
		"a forged error of those that none signs": {func(s *fakeServer, m *stun.Message) {
			s.answer(m, stun.ClassErrorResponse, stun.CodeBadRequest)
		}, lifetime/2 + time.Minute, 0},
		"an error of the server": {func(s *fakeServer, m *stun.Message) {
			s.answer(m, stun.ClassErrorResponse, append(mismatch, s.key)...)
		}, time.Hour, lifetime / 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, cfg := startFake(t)
				began := time.Now()
				s.onRefresh(c.refresh)
				a := allocate(t, cfg)
				over := time.AfterFunc(c.during, func() { s.onRefresh(nil) })
				defer over.Stop()
				watch := time.NewTimer(4 * lifetime)
				defer watch.Stop()
				select {
				case <-a.Done():
					at := time.Since(began)
					if c.ends == 0 || at < c.ends-time.Second || at > c.ends+40*time.Second {
						t.Errorf("it ended after %v: %v; want %v", at, a.Err(), c.ends)
					}
				case <-watch.C:
					if c.ends != 0 {
						t.Errorf("it has not ended, want that after %v", c.ends)
					}
				}
				if n := s.count(); n > 200 {
					t.Errorf("%d requests", n)
				}
			})
		})
	}
}

// A request that finds no room in the queue of a stream is sent when there is some.
func TestRequestWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c := &client{conn: near, stream: true, waiting: make(map[[stun.TransactionIDSize]byte]chan *stun.Message)}
		c.out = outbox.New(1000, func(b []byte) error { _, err := near.Write(b); return err }, func() { near.Close() })
		for range 2 { // one is being written, and one fills the queue
			if err := c.send(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if err := c.send(make([]byte, 1000)); !errors.Is(err, outbox.ErrFull) {
			t.Fatalf("got %v, want a full queue", err)
		}
		var wg sync.WaitGroup
		requests := 0
		wg.Go(func() {
			time.Sleep(time.Second) // in the bubble: the server is slow
			buf := make([]byte, 4000)
			for {
				n, err := far.Read(buf)
				if err != nil {
					return
				}
				m := &stun.Message{Raw: append([]byte(nil), buf[:n]...)}
				if m.Decode() != nil {
					continue
				}
				if requests++; requests == 1 {
					time.Sleep(3 * time.Second) // it is not repeated meanwhile
					r := stun.MustBuild(stun.NewTransactionIDSetter(m.TransactionID), stun.NewType(stun.MethodRefresh, stun.ClassErrorResponse), stun.CodeUnauthorized)
					go c.answered(r)
				}
			}
		})
		if _, err := c.transact(t.Context(), stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodRefresh, stun.ClassRequest))); err != nil {
			t.Error(err)
		}
		far.Close()
		c.close()
		wg.Wait()
		if requests != 1 {
			t.Errorf("%d requests, want one", requests)
		}
	})
}
