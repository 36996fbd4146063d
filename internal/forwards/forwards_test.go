package forwards

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/event"
	"adit/internal/fail"
	"adit/internal/peer"
	"adit/internal/plan"
	"adit/reliable"
	"adit/tunnel"
)

// A mute is a link whose peer never answers.
type mute struct{}

func (mute) Send(_, _ uint32, _ []byte) bool   { return true }
func (mute) SendFresh(_ uint32, _ []byte) bool { return true }
func (mute) Forget(uint32)                     {}
func (mute) Receive(func([]byte))              {}
func (mute) MTU() int                          { return 1200 }
func (mute) Window(uint32) int                 { return 1 << 20 }
func (mute) Pending(uint32) int                { return 0 }
func (mute) RTT() time.Duration                { return time.Millisecond }

// A silent is a session over a mute link.
type silent struct {
	streams     *reliable.Session
	interrupted atomic.Bool
	ended       chan struct{} // closed by end
}

func newSilent(t *testing.T) *silent {
	s := &silent{streams: reliable.NewSession(mute{}, reliable.Config{Initiator: true}), ended: make(chan struct{})}
	t.Cleanup(func() { _ = s.streams.Close() })
	return s
}

func (s *silent) Streams() *reliable.Session { return s.streams }
func (s *silent) Targets() []string          { return nil }
func (s *silent) Stats() peer.Stats          { return peer.Stats{Interrupted: s.interrupted.Load()} }

func (s *silent) Wait() error {
	<-s.ended
	return errGone
}

var errGone = &fail.Failure{Code: fail.Gone, Message: "it is gone"}

func (s *silent) end() {
	close(s.ended)
	s.streams.CloseWithError(net.ErrClosed)
}

// told hears of nothing.
func told() Told {
	return Told{
		Event: func(event.Event) {}, Unlisten: func(event.Event) {}, Say: func(string, ...any) {},
		Explain: error.Error, Logger: slog.New(slog.DiscardHandler), Flows: tunnel.NewFlowBudget(1 << 20),
	}
}

var errInterrupted = errors.New("interrupted")

func remotes(t *testing.T, texts ...string) plan.Forwarding {
	t.Helper()
	p, err := plan.Parse(plan.Texts{Remote: texts})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestRemoteOfASilentPeer asks a peer to listen that does not answer.
func TestRemoteOfASilentPeer(t *testing.T) {
	two := remotes(t, "1:localhost:1", "2:localhost:2")
	// begun returns a forwarder that forwards nothing yet, over a session with such a peer.
	begun := func(t *testing.T, ctx context.Context) (*Forwarder, *silent) {
		f, err := Open(ctx, told(), plan.Forwarding{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Close)
		s := newSilent(t)
		if err := f.Begin(s, tunnel.Offer{}); err != nil {
			t.Fatal(err)
		}
		return f, s
	}
	for name, test := range map[string]func(*testing.T){
		"a change waits for so long, however many there are": func(t *testing.T) {
			f, s := begun(t, t.Context())
			began := time.Now()
			if err := f.Change(two); !errors.Is(err, ErrNoAnswer) || time.Since(began) != remoteWait {
				t.Errorf("%v after %v, want %v after %v", err, time.Since(began), ErrNoAnswer, remoteWait)
			}
			s.end()
		},
		"the end of the session ends it, and the next can begin": func(t *testing.T) {
			f, s := begun(t, t.Context())
			changed := make(chan error, 1)
			go func() { changed <- f.Change(two) }()
			synctest.Wait()
			s.end()
			f.Pause()
			if err := <-changed; !errors.Is(err, errGone) {
				t.Errorf("the change says %v, want why the session ended", err)
			}
		},
		"the end of the command ends a change": func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			f, s := begun(t, ctx)
			began := time.Now()
			time.AfterFunc(time.Second, func() { cancel(errInterrupted) })
			if err := f.Change(two); !errors.Is(err, errInterrupted) || time.Since(began) != time.Second {
				t.Errorf("%v after %v, want %v after a second", err, time.Since(began), errInterrupted)
			}
			s.end()
		},
		"the end of the command ends begin, which has no other limit": func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			f, err := Open(ctx, told(), two)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			s := newSilent(t)
			began := time.Now()
			time.AfterFunc(time.Hour, func() { cancel(errInterrupted) })
			if err := f.Begin(s, tunnel.Offer{}); !errors.Is(err, errInterrupted) || time.Since(began) != time.Hour {
				t.Errorf("%v after %v, want %v after an hour", err, time.Since(began), errInterrupted)
			}
			s.end()
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

// TestChosenForwardsStay when others are added, and when the session after that begins.
func TestChosenForwardsStay(t *testing.T) {
	listening := []string{}
	hears := told()
	hears.Event = func(e event.Event) {
		if e.Name == event.Listening {
			listening = append(listening, e.Target)
		}
	}
	hears.Unlisten = func(e event.Event) {
		if i := slices.Index(listening, e.Target); i >= 0 {
			listening = slices.Delete(listening, i, i+1)
		}
	}
	f, err := Open(t.Context(), hears, plan.Forwarding{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := newSilent(t)
	if err := f.Begin(s, tunnel.Offer{}); err != nil {
		t.Fatal(err)
	}
	w, err := tunnel.ParseForward("0:localhost:22")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Choose(w); err != nil {
		t.Fatal(err)
	}
	check := func(step string, want ...string) {
		t.Helper()
		if !slices.Equal(listening, want) {
			t.Errorf("%s: listening for %q, want %q", step, listening, want)
		}
	}
	check("chosen", "localhost:22")
	asked, err := plan.Parse(plan.Texts{Local: []string{"0:localhost:80"}, Dynamic: []string{"0"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Change(asked); err != nil {
		t.Fatal(err)
	}
	check("others are added", "localhost:22", "localhost:80", "socks")
	s.end()
	f.Pause()
	asked.Dynamic = nil
	if err := f.Change(asked); err != nil {
		t.Fatal(err)
	}
	check("one has gone while there is no session", "localhost:22", "localhost:80")
	asked.Local = append(asked.Local, w)
	asked.Local[1].Target.Port = 81
	if err := f.Change(asked); err != nil {
		t.Fatal(err)
	}
	next := newSilent(t)
	if err := f.Begin(next, tunnel.Offer{}); err != nil {
		t.Fatal(err)
	}
	check("the next session", "localhost:22", "localhost:80", "localhost:81")
	next.end()
}
