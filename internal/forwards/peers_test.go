package forwards

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/plan"
	"adit/tunnel"
)

func TestCarrierOf(t *testing.T) {
	silent := func(s string) bool { return s[0] == '-' }
	for _, test := range []struct {
		name     string
		sessions []string
		now      string
		want     string
	}{
		{"nobody", nil, "", ""},
		{"the first", []string{"a"}, "", "a"},
		{"it stays", []string{"a", "b"}, "a", "a"},
		{"it is gone: the newest", []string{"b", "c"}, "a", "c"},
		{"it is silent: the newest that is not", []string{"-a", "b", "-c"}, "-a", "b"},
		{"all are silent: it stays", []string{"-a", "-b"}, "-a", "-a"},
		{"all are silent, and it is gone", []string{"-b", "-c"}, "a", "-c"},
		{"all are gone", nil, "a", ""},
	} {
		if got := carrierOf(test.sessions, test.now, silent); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// TestPeerForwardsPortInUse fails at once, and leaves nothing behind, where a port of a peer is taken.
func TestPeerForwardsPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked, err := plan.Parse(plan.Texts{Local: []string{l.Addr().String() + ":localhost:22"}})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { // it ends the test where all wait for each other
		_, err := OpenPeers(t.Context(), told(), map[string]plan.Forwarding{"laptop": asked})
		if !errors.Is(err, tunnel.ErrListen) {
			t.Errorf("got %v, want that of a port in use", err)
		}
	})
}

// TestPeerForwardsMove leaves a session that has fallen silent for another, without either of them ending.
func TestPeerForwardsMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := OpenPeers(t.Context(), told(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		one, two := newSilent(t), newSilent(t)
		for _, s := range []*silent{one, two} {
			_, leave, err := p.Enter("laptop", s)
			if err != nil {
				t.Fatal(err)
			}
			defer leave()
			synctest.Wait() // the first carries
		}
		check := func(step string, want *silent) {
			t.Helper()
			synctest.Wait()
			f := p.list["laptop"].Forwarder
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.begun != Carrier(want) {
				t.Errorf("%s: another session carries", step)
			}
		}
		check("both are there", one)
		one.interrupted.Store(true)
		time.Sleep(carrierEvery)
		check("the first is silent", two)
		one.interrupted.Store(false)
		time.Sleep(carrierEvery)
		check("it is back, and the other goes on", two)
	})
}
