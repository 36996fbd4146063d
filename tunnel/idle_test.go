package tunnel

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A flowSession opens streams that are accepted at once and have datagrams.
type flowSession struct {
	Session
	mu     sync.Mutex
	opened []*flowStream // guarded by mu while flows open
}

func (s *flowSession) Open(context.Context, []byte) (Stream, error) {
	st := &flowStream{fakeStream: &fakeStream{in: newHalf(), out: newHalf()}, came: make(chan []byte), closed: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened = append(s.opened, st)
	return st, nil
}

type flowStream struct {
	*fakeStream
	came   chan []byte
	sent   atomic.Int64
	once   sync.Once
	closed chan struct{}
}

func (s *flowStream) WaitAccepted(context.Context) error { return nil }
func (s *flowStream) AcceptDatagrams()                   {}

func (s *flowStream) SendDatagram([]byte) bool {
	s.sent.Add(1)
	return true
}

func (s *flowStream) NextDatagram(use func([]byte)) error {
	select {
	case p := <-s.came:
		use(p)
		return nil
	case <-s.closed:
		return net.ErrClosed
	}
}

func (s *flowStream) Close() error {
	s.once.Do(func() {
		close(s.closed)
		s.in.end(net.ErrClosed)
	})
	return nil
}

func (s *flowStream) open() bool {
	synctest.Wait()
	select {
	case <-s.closed:
		return false
	default:
		return true
	}
}

// TestFlowIdle: a flow ends a minute after its last datagram if nothing ever came back, else after five, and the next
// datagram of its source opens another.
func TestFlowIdle(t *testing.T) {
	for _, test := range []struct {
		name     string
		answered bool
		idle     time.Duration
	}{
		{"one way", false, time.Minute},
		{"both ways", true, 5 * time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := new(flowSession)
				ctx, stop := context.WithCancel(t.Context())
				flows := newFlows[int](ctx, s, &Options{})
				defer flows.wg.Wait()
				defer stop()
				got := 0
				f := flows.open(1, header{}, StreamEvent{}, func([]byte) { got++ })
				f.send([]byte("hello"))
				synctest.Wait()
				st := s.opened[0]
				sent, want := st.sent.Load(), 0 // the first one may travel either way
				if test.answered {              // until then it is one way
					st.came <- []byte("yes")
					want++
				}
				for range 10 { // what is not silent stays
					time.Sleep(test.idle - time.Second)
					f.send([]byte("still there"))
					sent++
					if test.answered {
						st.came <- []byte("yes")
						want++
					}
				}
				synctest.Wait()
				if n := st.sent.Load(); n != sent || got != want {
					t.Errorf("%d datagrams left and %d came, want %d and %d", n, got, sent, want)
				}
				time.Sleep(test.idle - time.Millisecond)
				if !st.open() || flows.get(1) != f {
					t.Fatalf("it ended before %v of silence", test.idle)
				}
				time.Sleep(2 * time.Millisecond)
				if st.open() || flows.get(1) != nil {
					t.Fatalf("it goes on after %v of silence", test.idle)
				}
				flows.open(1, header{}, StreamEvent{}, func([]byte) {}).send([]byte("again"))
				synctest.Wait()
				if len(s.opened) != 2 || flows.get(1) == nil {
					t.Error("there is no other flow")
				}
			})
		})
	}
}

// The side that serves a flow waits longer than the one that opened it, which is to end it.
func TestFlowIdleServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &silence{began: time.Now()}
		s.in(100)
		wait := func() time.Duration {
			began, done := time.Now(), make(chan struct{})
			defer s.watch(serveSlack, func() { close(done) })()
			<-done
			return time.Since(began)
		}
		if took := wait(); took != flowIdle+serveSlack {
			t.Errorf("one way it waited for %v, want %v", took, flowIdle+serveSlack)
		}
		s.in(100)
		time.AfterFunc(time.Minute, func() { s.out(100) })
		if took, want := wait(), time.Minute+flowIdleBoth+serveSlack; took != want {
			t.Errorf("both ways it waited for %v, want %v", took, want)
		}
		s.watch(serveSlack, func() { t.Error("it ends after it was stopped") })()
		time.Sleep(time.Hour)
	})
}
