package peer

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/portmap"
	"adit/internal/punch"
	"adit/signal"
)

// A fakeMapper takes a second to go.
type fakeMapper struct {
	tried chan struct{}
	close func()
}

func (m fakeMapper) Tried() <-chan struct{} { return m.tried }

func (m fakeMapper) Renew() {}

func (m fakeMapper) Close() error {
	time.Sleep(time.Second)
	m.close()
	return nil
}

// The network changes, and again before the router may be asked again: there is a mapping in the end, and never two.
func TestRemapSoonAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &base{cfg: Config{Logger: discard}, users: 1, ends: make(map[*endpoint]struct{})}
		b.ctx, b.cancel = context.WithCancel(t.Context())
		open, opened := 0, []time.Duration(nil)
		began := time.Now()
		b.openMapper(func() mapper {
			if open++; open > 1 {
				t.Error("two at once ask for the port")
			}
			opened = append(opened, time.Since(began))
			port := uint16(1000 + len(opened))
			b.wg.Go(func() {
				if sleep(b.ctx, 100*time.Millisecond) {
					b.portMapped(portmap.Mapping{Protocol: portmap.PCP, External: netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), port)})
				}
			})
			return fakeMapper{tried: make(chan struct{}), close: func() { open-- }}
		})
		e := &endpoint{cfg: b.cfg, base: b, fresh: newFresh(), nat: newNATTalk()}
		e.roamer = &roamer{e: e, wake: make(chan struct{}, 1)}
		b.join(e)
		ports := func() (got []uint16) {
			e.mu.Lock()
			defer e.mu.Unlock()
			for _, c := range e.candidates {
				got = append(got, c.Addr.Port())
			}
			return got
		}
		change := func() {
			b.forget()
			e.forgetNetwork() // as the roamer does
		}
		time.Sleep(10 * time.Second)
		if got := ports(); !slices.Equal(got, []uint16{1001}) {
			t.Errorf("mapped ports %v, want the first one", got)
		}
		change()
		time.Sleep(2 * time.Second)
		if got := ports(); !slices.Equal(got, []uint16{1002}) {
			t.Errorf("mapped ports %v, want the second one", got)
		}
		change()
		change()
		if got := ports(); len(got) != 0 {
			t.Errorf("mapped ports %v in a network that nobody has asked yet", got)
		}
		time.Sleep(10 * time.Second)
		if got := ports(); !slices.Equal(got, []uint16{1003}) {
			t.Errorf("mapped ports %v, want the third one", got)
		}
		if want := []time.Duration{0, 11 * time.Second, 17 * time.Second}; !slices.Equal(opened, want) {
			t.Errorf("the router was asked after %v, want %v", opened, want)
		}
		b.cancel()
		b.wg.Wait()
	})
}

// A router that maps a port and does not tell its address has the one that STUN servers see.
func TestMappedWithoutAddress(t *testing.T) {
	addr := netip.MustParseAddrPort
	unnamed := portmap.Mapping{Protocol: portmap.UPnP, External: addr("0.0.0.0:7000")}
	seen := punch.Candidate{Type: punch.ServerReflexive, Addr: addr("198.51.100.1:4000")}
	six := punch.Candidate{Type: punch.ServerReflexive, Addr: addr("[2001:db8::1]:4000")}
	want := punch.Candidate{Type: punch.ServerReflexive, Addr: addr("198.51.100.1:7000")}
	for name, steps := range map[string][]func(*endpoint){
		"mapped first": {func(e *endpoint) { e.portMapped(unnamed) }, func(e *endpoint) { e.found(six) }, func(e *endpoint) { e.found(seen) }},
		"seen first":   {func(e *endpoint) { e.found(seen) }, func(e *endpoint) { e.found(six) }, func(e *endpoint) { e.portMapped(unnamed) }},
	} {
		e := &endpoint{cfg: Config{Logger: discard}, base: &base{}}
		var told []punch.Candidate
		e.onCand = func(c punch.Candidate) { told = append(told, c) }
		for _, step := range steps {
			step(e)
		}
		if !slices.Contains(told, want) || len(e.candidates) != 3 {
			t.Errorf("%s: told %v, have %v, want %v among them", name, told, e.candidates, want)
		}
		e.portMapped(portmap.Mapping{Protocol: portmap.UPnP, External: addr("203.0.113.5:7000")}) // it tells now
		if slices.Contains(e.candidates, want) {
			t.Errorf("%s: the guess is still there: %v", name, e.candidates)
		}
		e.forgetNetwork()
		if len(e.candidates) != 0 {
			t.Errorf("%s: %v in another network", name, e.candidates)
		}
	}
}

// Who waits for its peer finds out where it is in another network, and tells nothing of the one before.
func TestNetworkChangesWhileWaiting(t *testing.T) {
	t.Parallel()
	e, err := open(Config{Loopback: true, Logger: discard}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := punch.Candidate{Type: punch.ServerReflexive, Addr: netip.MustParseAddrPort("198.51.100.1:1")}
	e.found(old)
	relayed := punch.Candidate{Type: punch.Relay, Addr: netip.MustParseAddrPort("198.51.100.2:1")}
	e.found(relayed)
	again := make(chan punch.Candidate, 1)
	watch := func() []signal.Candidate {
		return e.description(func(c punch.Candidate) {
			select {
			case again <- c:
			default: // one says that the search has begun
			}
		}).Candidates
	}
	watch()
	for range 3 {
		e.base.networkChanged()
		if got := <-again; got == old || got == relayed {
			t.Errorf("%v was found again", got)
		}
		if err := e.settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		now := watch()
		if slices.Contains(now, toSignal(old)) || !slices.Contains(now, toSignal(relayed)) || len(now) < 2 {
			t.Errorf("after the change: %v", now)
		}
		e.found(old)
		for len(again) > 0 {
			<-again
		}
	}
}
