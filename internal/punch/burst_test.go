package punch

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun"
)

// spraying makes two agents that do not know each other's address.
func spraying(t *testing.T) (a, b *Host, x, y *Agent) {
	t.Helper()
	a, b = listen(t, Config{}), listen(t, Config{})
	ca, cb := CredentialsFromSeed(seed(11)), CredentialsFromSeed(seed(12))
	return a, b, agent(t, a, ca, cb, true), agent(t, b, cb, ca, false)
}

// TestSpray: the socket that heard a check carries everything from then on, and only that stays.
func TestSpray(t *testing.T) {
	t.Parallel()
	for _, far := range []bool{false, true} {
		a, b, x, y := spraying(t)
		ox, oy := connect(t.Context(), x), connect(t.Context(), y)
		if err := x.Spray(t.Context(), loopback(b), 8, far); err != nil {
			t.Fatal(err)
		}
		px, py := wait(t, ox), wait(t, oy)
		if px.err != nil || py.err != nil {
			t.Fatalf("got errors %v and %v", px.err, py.err)
		}
		hole := py.pair.Remote.Addr
		if int(hole.Port()) == a.Port() {
			t.Errorf("ICE took the host's own port")
		}
		if px.pair.Remote.Addr != loopback(b) {
			t.Errorf("got %v, want %v", px.pair.Remote.Addr, loopback(b))
		}
		atB, atA := make(chan netip.AddrPort, 1), make(chan netip.AddrPort, 1)
		b.SetHandler(func(_ []byte, _ int, from netip.AddrPort) { atB <- from })
		a.SetHandler(func(_ []byte, _ int, from netip.AddrPort) { atA <- from })
		if err := a.Send([]byte("hello"), 5, loopback(b)); err != nil {
			t.Fatal(err)
		}
		if from := <-atB; from != hole {
			t.Errorf("data came from %v, want %v", from, hole)
		}
		if err := b.Send([]byte("hello"), 5, hole); err != nil {
			t.Fatal(err)
		}
		if from := <-atA; from != loopback(b) {
			t.Errorf("data came from %v, want %v", from, loopback(b))
		}
		if n := len(a.table.routes.all()); n != 1 {
			t.Errorf("got %d routes, want one", n)
		}
	}
}

// TestProbePorts finds the one socket of a spray among ports that nobody listens at.
func TestProbePorts(t *testing.T) {
	t.Parallel()
	a, b, x, y := spraying(t)
	oy := connect(t.Context(), y)
	// x only answers: its main socket is what y must find.
	ox := connect(t.Context(), x)
	first := []uint16{1, 2, 3, 4, uint16(a.Port())}
	if err := y.Probe(t.Context(), loopback(a).Addr(), first); err != nil {
		t.Fatal(err)
	}
	expectPair(t, ox, loopback(b))
	expectPair(t, oy, loopback(a))
}

// TestHit: only the peer ends a probe. Others that have a port of that address may answer too.
func TestHit(t *testing.T) {
	t.Parallel()
	pwd := stun.NewShortTermIntegrity(password)
	from := netip.MustParseAddrPort("192.0.2.1:5")
	for _, test := range []struct {
		name    string
		typ     stun.MessageType
		setters []stun.Setter
		want    int
	}{
		{"the peer", stun.BindingSuccess, []stun.Setter{pwd, stun.Fingerprint}, 1},
		{"a STUN server", stun.BindingSuccess, nil, 0},
		{"another agent", stun.BindingSuccess, []stun.Setter{stun.NewShortTermIntegrity("another password")}, 0},
		{"an error", stun.BindingError, []stun.Setter{pwd}, 0},
		{"a server's error", stun.BindingError, nil, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			id := stun.NewTransactionID()
			m, err := stun.Build(append([]stun.Setter{test.typ, stun.NewTransactionIDSetter(id)}, test.setters...)...)
			if err != nil {
				t.Fatal(err)
			}
			h, hit := &Host{table: newTable()}, make(chan netip.AddrPort, 1)
			h.table.expect(id, transaction{hit: hit, pwd: pwd})
			h.receive(m.Raw, len(m.Raw), from)
			if len(hit) != test.want {
				t.Errorf("got %d answers, want %d", len(hit), test.want)
			}
		})
	}
}

func TestBurstUnblocks(t *testing.T) {
	t.Parallel()
	because := errors.New("because")
	dead := listen(t, Config{})
	nobody := loopback(dead)
	dead.Close()
	for _, test := range []struct {
		name string
		do   func(*Host, *Agent, context.CancelCauseFunc)
		want error
	}{
		{"context", func(_ *Host, _ *Agent, cancel context.CancelCauseFunc) { cancel(because) }, because},
		{"agent", func(_ *Host, a *Agent, _ context.CancelCauseFunc) { a.Close() }, net.ErrClosed},
		{"host", func(h *Host, _ *Agent, _ context.CancelCauseFunc) { h.Close() }, net.ErrClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h, _, x, _ := spraying(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			ended := make(chan error, 2)
			go func() { ended <- x.Spray(ctx, nobody, 32, true) }()
			go func() { ended <- x.Probe(ctx, nobody.Addr(), nil) }()
			<-time.After(20 * time.Millisecond) // in the midst of it
			test.do(h, x, cancel)
			for range 2 {
				if err := <-ended; !errors.Is(err, test.want) {
					t.Errorf("got %v, want %v", err, test.want)
				}
			}
			if err := x.Spray(ctx, nobody, 1, false); err == nil {
				t.Error("a spray of what is closed succeeds")
			}
		})
	}
}

func TestBurstAddresses(t *testing.T) {
	t.Parallel()
	h, err := Listen(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	x, err := h.NewAgent(AgentConfig{Local: CredentialsFromSeed(seed(1))})
	if err != nil {
		t.Skip(err)
	}
	for _, s := range []string{"127.0.0.1:5", "224.0.0.1:5", "255.255.255.255:5", "169.254.1.1:5", "0.0.0.0:5", "[2001:db8::1]:5", "192.168.1.7:5", "10.0.0.1:5", "192.0.2.1:0"} {
		to := netip.MustParseAddrPort(s)
		if err := x.Spray(t.Context(), to, 1, false); !errors.Is(err, ErrAddress) {
			t.Errorf("spray at %v: got %v, want %v", to, err, ErrAddress)
		}
		if to.Port() == 0 {
			continue
		}
		if err := x.Probe(t.Context(), to.Addr(), nil); !errors.Is(err, ErrAddress) {
			t.Errorf("probe %v: got %v, want %v", to.Addr(), err, ErrAddress)
		}
	}
}
