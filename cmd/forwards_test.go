package cmd

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/peer"
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

var errGone = &failure{code: exitGone, message: "it is gone"}

func (s *silent) end() {
	close(s.ended)
	s.streams.CloseWithError(net.ErrClosed)
}

func remotes(t *testing.T, texts ...string) forwarding {
	t.Helper()
	plan, err := parseForwarding(nil, texts, nil)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// TestRemoteOfASilentPeer asks a peer to listen that does not answer.
func TestRemoteOfASilentPeer(t *testing.T) {
	two := remotes(t, "1:localhost:1", "2:localhost:2")
	// begun returns a forwarder that forwards nothing yet, over a session with such a peer.
	begun := func(t *testing.T, ctx context.Context) (*forwarder, *silent) {
		f, err := openForwards(ctx, newScreen(), forwarding{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.close)
		s := newSilent(t)
		if err := f.begin(s, tunnel.Offer{}); err != nil {
			t.Fatal(err)
		}
		return f, s
	}
	for name, test := range map[string]func(*testing.T){
		"a change waits for so long, however many there are": func(t *testing.T) {
			f, s := begun(t, t.Context())
			began := time.Now()
			if err := f.change(two); !errors.Is(err, errNoAnswer) || time.Since(began) != remoteWait {
				t.Errorf("%v after %v, want %v after %v", err, time.Since(began), errNoAnswer, remoteWait)
			}
			s.end()
		},
		"the end of the session ends it, and the next can begin": func(t *testing.T) {
			f, s := begun(t, t.Context())
			changed := make(chan error, 1)
			go func() { changed <- f.change(two) }()
			synctest.Wait()
			s.end()
			f.pause()
			if err := <-changed; !errors.Is(err, errGone) {
				t.Errorf("the change says %v, want why the session ended", err)
			}
		},
		"the end of the command ends a change": func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			f, s := begun(t, ctx)
			began := time.Now()
			time.AfterFunc(time.Second, func() { cancel(errInterrupted) })
			if err := f.change(two); !errors.Is(err, errInterrupted) || time.Since(began) != time.Second {
				t.Errorf("%v after %v, want %v after a second", err, time.Since(began), errInterrupted)
			}
			s.end()
		},
		"the end of the command ends begin, which has no other limit": func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			f, err := openForwards(ctx, newScreen(), two)
			if err != nil {
				t.Fatal(err)
			}
			defer f.close()
			s := newSilent(t)
			began := time.Now()
			time.AfterFunc(time.Hour, func() { cancel(errInterrupted) })
			if err := f.begin(s, tunnel.Offer{}); !errors.Is(err, errInterrupted) || time.Since(began) != time.Hour {
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
	u := newScreen()
	u.run = newRunning("connect")
	f, err := openForwards(t.Context(), u, forwarding{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	s := newSilent(t)
	if err := f.begin(s, tunnel.Offer{}); err != nil {
		t.Fatal(err)
	}
	w, err := tunnel.ParseForward("0:localhost:22")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.choose(w); err != nil {
		t.Fatal(err)
	}
	check := func(step string, want ...string) {
		t.Helper()
		var got []string
		for _, l := range u.run.status().Listening {
			got = append(got, l.Target)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: listening for %q, want %q", step, got, want)
		}
	}
	check("chosen", "localhost:22")
	plan, err := parseForwarding([]string{"0:localhost:80"}, nil, []string{"0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.change(plan); err != nil {
		t.Fatal(err)
	}
	check("others are added", "localhost:22", "localhost:80", "socks")
	s.end()
	f.pause()
	plan.dynamic = nil
	if err := f.change(plan); err != nil {
		t.Fatal(err)
	}
	check("one has gone while there is no session", "localhost:22", "localhost:80")
	plan.local = append(plan.local, w)
	plan.local[1].Target.Port = 81
	if err := f.change(plan); err != nil {
		t.Fatal(err)
	}
	next := newSilent(t)
	if err := f.begin(next, tunnel.Offer{}); err != nil {
		t.Fatal(err)
	}
	check("the next session", "localhost:22", "localhost:80", "localhost:81")
	next.end()
}
