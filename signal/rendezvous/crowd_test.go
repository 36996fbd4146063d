package rendezvous

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"adit/signal"
)

// Many exposers wait by key behind one address, over TLS. Each of them can be reached. The server is killed and
// started again: all of them come back by themselves.
//
//	ADIT_TEST=long go test ./signal/rendezvous -run TestCrowd -v
func TestCrowd(t *testing.T) {
	exposers := size(5000, 60)
	s := newSite(t, Limits{}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	holders := make([]holder, exposers)
	for i := range holders {
		holders[i] = newHolder(t)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, h := range holders {
		wg.Go(func() {
			c := s.from("127.77.0.1")
			defer c.CloseIdleConnections()
			box, err := (&signal.Client{URL: s.url(), HTTP: c}).KeyBox(h.private, h.public)
			if err != nil {
				t.Error(err)
				return
			}
			claimed, tries := false, 0
			again := func() { // as an exposer does
				d := min(200*time.Millisecond<<min(tries, 10), 15*time.Second)
				tries++
				rest(ctx, d*3/4+rand.N(d/2))
			}
			for ctx.Err() == nil {
				if !claimed {
					if err := box.Claim(ctx); err != nil {
						again()
						continue
					}
					claimed, tries = true, 0
				}
				offers, err := box.Poll(ctx, [16]byte{1})
				if errors.Is(err, signal.ErrUnclaimed) {
					claimed = false
				} else if err != nil {
					again()
				}
				for _, o := range offers {
					if room, err := box.Accept(ctx, o, signal.Message{Kind: signal.KindAnswer, Body: []byte("answer")}); err == nil {
						room.Close()
					}
				}
			}
		})
	}
	back := func(what string) {
		t.Helper()
		began := time.Now()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for limit := time.After(3 * time.Minute); s.server.keys.listening() < exposers; {
			select {
			case <-tick.C:
			case <-limit:
				t.Fatalf("%s: %d of %d exposers are there; %+v", what, s.server.keys.listening(), exposers, s.server.Stats())
			}
		}
		t.Logf("%s: %d exposers are there after %v", what, exposers, time.Since(began).Round(10*time.Millisecond))
	}
	reach := func(what string) {
		t.Helper()
		var took []time.Duration
		c := s.from("127.78.0.1")
		defer c.CloseIdleConnections()
		for i := range min(exposers, 500) {
			h := holders[(i*7919)%exposers]
			door, err := (&signal.Client{URL: s.url(), HTTP: c}).KeyDoor(h.public)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := door.Challenge(ctx, 5*time.Second); err != nil {
				t.Fatalf("%s: exposer %d: %v", what, i, err)
			}
			began := time.Now()
			room, err := door.Offer(ctx, signal.Message{Kind: signal.KindOffer, Body: []byte("offer")})
			if err != nil {
				t.Fatalf("%s: exposer %d: %v", what, i, err)
			}
			took = append(took, time.Since(began))
			room.Close()
		}
		slices.Sort(took)
		t.Logf("%s: an offer is answered within %v p50, %v p99", what, took[len(took)/2].Round(100*time.Microsecond), took[len(took)*99/100].Round(100*time.Microsecond))
	}
	back("at the start")
	reach("at the start")
	s.kill()
	s.start()
	back("after a kill")
	reach("after a kill")
	refused := s.server.Stats().Refused
	delete(refused, limitHandshakes) // a busy machine takes longer for them than it waits
	if len(refused) > 0 {
		t.Errorf("limits have refused %v, want none", refused)
	}
}

// listening returns how many listeners are there now.
func (k *keyboxes) listening() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for _, e := range k.byName {
		if k.thereLocked(e.Value.(*keybox)) {
			n++
		}
	}
	return n
}
