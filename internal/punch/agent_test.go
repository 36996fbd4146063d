package punch

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const patience = 10 * time.Second

func listen(t testing.TB, cfg Config) *Host {
	t.Helper()
	cfg.Loopback = true
	h, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// loopback is where the others on this machine reach h.
func loopback(h *Host) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(h.Port()))
}

func seed(b byte) (s [16]byte) {
	for i := range s {
		s[i] = b + byte(i)
	}
	return s
}

func agent(t *testing.T, h *Host, local, remote Credentials, controlling bool) *Agent {
	t.Helper()
	a, err := h.NewAgent(AgentConfig{Local: local, Controlling: controlling})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	if err := a.SetRemote(remote); err != nil {
		t.Fatal(err)
	}
	return a
}

func add(t *testing.T, a *Agent, addrs ...netip.AddrPort) {
	t.Helper()
	for i, addr := range addrs {
		if err := a.AddRemote(Candidate{HostCandidate, addr, priority(HostCandidate, addr.Addr().Is6(), i)}); err != nil {
			t.Fatal(err)
		}
	}
}

type outcome struct {
	pair Pair
	err  error
}

func connect(ctx context.Context, a *Agent) <-chan outcome {
	c := make(chan outcome, 1)
	go func() {
		p, err := a.Connect(ctx)
		c <- outcome{p, err}
	}()
	return c
}

func wait(t *testing.T, c <-chan outcome) outcome {
	t.Helper()
	select {
	case o := <-c:
		return o
	case <-time.After(patience):
		t.Fatal("Connect hangs")
		return outcome{}
	}
}

func expectPair(t *testing.T, c <-chan outcome, remote netip.AddrPort) {
	t.Helper()
	o := wait(t, c)
	if o.err != nil {
		t.Fatalf("connect: %v", o.err)
	}
	if o.pair.Remote.Addr != remote {
		t.Errorf("got pair %v, want remote %v", o.pair, remote)
	}
}

func TestConnect(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	a, b := listen(t, Config{}), listen(t, Config{})
	ca, cb := CredentialsFromSeed(seed(1)), CredentialsFromSeed(seed(2))
	x, y := agent(t, a, ca, cb, true), agent(t, b, cb, ca, false)
	add(t, x, loopback(b))
	add(t, y, loopback(a))
	ox, oy := connect(ctx, x), connect(ctx, y)
	expectPair(t, ox, loopback(b))
	expectPair(t, oy, loopback(a))
	if _, err := x.Connect(ctx); !errors.Is(err, ErrStarted) {
		t.Errorf("second Connect: got %v, want %v", err, ErrStarted)
	}
}

func TestConnectAllCandidates(t *testing.T) {
	t.Parallel()
	a, b := listen(t, Config{}), listen(t, Config{})
	ca, cb := CredentialsFromSeed(seed(3)), CredentialsFromSeed(seed(4))
	x, y := agent(t, a, ca, cb, true), agent(t, b, cb, ca, false)
	for _, c := range []struct {
		from *Host
		to   *Agent
	}{{b, x}, {a, y}} {
		err := c.from.Gather(t.Context(), func(cand Candidate) {
			if err := c.to.AddRemote(cand); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ox, oy := connect(t.Context(), x), connect(t.Context(), y)
	px, py := wait(t, ox), wait(t, oy)
	if px.err != nil || py.err != nil {
		t.Fatalf("got errors %v and %v", px.err, py.err)
	}
	if int(px.pair.Remote.Addr.Port()) != b.Port() || int(py.pair.Remote.Addr.Port()) != a.Port() {
		t.Errorf("got pairs %v and %v of ports %d and %d", px.pair, py.pair, a.Port(), b.Port())
	}
}

// Only one side knows where the other is: the other learns it from the checks (peer-reflexive).
func TestConnectPeerReflexive(t *testing.T) {
	t.Parallel()
	a, b := listen(t, Config{}), listen(t, Config{})
	ca, cb := CredentialsFromSeed(seed(5)), CredentialsFromSeed(seed(6))
	x, y := agent(t, a, ca, cb, true), agent(t, b, cb, ca, false)
	add(t, x, loopback(b))
	ox, oy := connect(t.Context(), x), connect(t.Context(), y)
	expectPair(t, ox, loopback(b))
	o := wait(t, oy)
	if o.err != nil || o.pair.Remote.Addr != loopback(a) || o.pair.Remote.Type != PeerReflexive {
		t.Errorf("got %v, %v, want a prflx candidate at %v", o.pair, o.err, loopback(a))
	}
}

func TestLateCandidates(t *testing.T) {
	t.Parallel()
	a, b := listen(t, Config{}), listen(t, Config{})
	ca, cb := CredentialsFromSeed(seed(7)), CredentialsFromSeed(seed(8))
	x, y := agent(t, a, ca, cb, true), agent(t, b, cb, ca, false)
	silent := listen(t, Config{})
	add(t, x, loopback(silent)) // it takes checks and never answers
	heard := make(chan struct{}, 1)
	ox, oy := connect(t.Context(), x), connect(t.Context(), y)
	probe := newSilent(t, heard)
	add(t, x, probe)
	<-heard // the checks are under way
	add(t, x, loopback(b))
	add(t, y, loopback(a))
	expectPair(t, ox, loopback(b))
	expectPair(t, oy, loopback(a))
}

// newSilent is a socket that tells of the first packet and answers nothing.
func newSilent(t *testing.T, heard chan<- struct{}) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 2000)
		for {
			if _, _, err := c.ReadFromUDPAddrPort(b); err != nil {
				return
			}
			select {
			case heard <- struct{}{}:
			default:
			}
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Two generations share both sockets; the first stays up when the second comes and goes.
func TestGenerations(t *testing.T) {
	t.Parallel()
	a, b := listen(t, Config{}), listen(t, Config{})
	var agents [][2]*Agent
	var outs []<-chan outcome
	for g := range byte(3) {
		ca, cb := CredentialsFromSeed(seed(20+2*g)), CredentialsFromSeed(seed(21+2*g))
		x, y := agent(t, a, ca, cb, g%2 == 0), agent(t, b, cb, ca, g%2 == 1)
		add(t, x, loopback(b))
		add(t, y, loopback(a))
		agents = append(agents, [2]*Agent{x, y})
		outs = append(outs, connect(t.Context(), x), connect(t.Context(), y))
	}
	for i, o := range outs {
		expectPair(t, o, []netip.AddrPort{loopback(b), loopback(a)}[i%2])
	}
	for _, x := range agents[1] {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, x := range append(agents[0][:], agents[2][:]...) {
		if _, err := x.selected(); err != nil {
			t.Errorf("a generation lost its pair: %v", err)
		}
	}
	if _, err := a.NewAgent(AgentConfig{Local: CredentialsFromSeed(seed(20))}); !errors.Is(err, ErrCredentials) {
		t.Errorf("user fragment in use: got %v, want %v", err, ErrCredentials)
	}
}

func TestWrongPassword(t *testing.T) {
	t.Parallel()
	a, b := listen(t, Config{}), listen(t, Config{})
	ca, cb := CredentialsFromSeed(seed(9)), CredentialsFromSeed(seed(10))
	wrong := Credentials{cb.Ufrag, CredentialsFromSeed(seed(11)).Pwd}
	x, y := agent(t, a, ca, wrong, true), agent(t, b, cb, ca, false)
	add(t, x, loopback(b))
	add(t, y, loopback(a))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	ox, oy := connect(ctx, x), connect(ctx, y)
	for _, o := range []outcome{wait(t, ox), wait(t, oy)} {
		if !errors.Is(o.err, context.DeadlineExceeded) {
			t.Errorf("got %v, %v, want %v", o.pair, o.err, context.DeadlineExceeded)
		}
	}
}

func TestConnectUnblocks(t *testing.T) {
	t.Parallel()
	because := errors.New("because")
	for _, test := range []struct {
		name string
		do   func(h *Host, a *Agent, cancel context.CancelCauseFunc)
		want error
	}{
		{"context", func(_ *Host, _ *Agent, cancel context.CancelCauseFunc) { cancel(because) }, because},
		{"agent closed", func(_ *Host, a *Agent, _ context.CancelCauseFunc) { a.Close() }, net.ErrClosed},
		{"host closed", func(h *Host, _ *Agent, _ context.CancelCauseFunc) { h.Close() }, net.ErrClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := listen(t, Config{})
			a := agent(t, h, CredentialsFromSeed(seed(12)), CredentialsFromSeed(seed(13)), true)
			heard := make(chan struct{}, 1)
			add(t, a, newSilent(t, heard))
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			o := connect(ctx, a)
			<-heard
			test.do(h, a, cancel)
			if got := wait(t, o); !errors.Is(got.err, test.want) {
				t.Errorf("got %v, want %v", got.err, test.want)
			}
		})
	}
}

func TestAgentRefuses(t *testing.T) {
	t.Parallel()
	h, err := Listen(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	h.own(netip.MustParseAddrPort("203.0.113.9:1234"))
	good := CredentialsFromSeed(seed(14))
	for _, c := range []Credentials{{}, {"abc", good.Pwd}, {good.Ufrag, "short"}, {"a:bcd", good.Pwd}, {strings.Repeat("a", 257), good.Pwd}} {
		if _, err := h.NewAgent(AgentConfig{Local: c}); !errors.Is(err, ErrCredentials) {
			t.Errorf("credentials %q: got %v, want %v", c, err, ErrCredentials)
		}
	}
	a, err := h.NewAgent(AgentConfig{Local: good})
	if errors.Is(err, ErrNoAddress) {
		t.Skip("this machine has no network")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Connect(t.Context()); !errors.Is(err, ErrCredentials) {
		t.Errorf("Connect without SetRemote: got %v, want %v", err, ErrCredentials)
	}
	for _, s := range []string{
		"0.0.0.0:1", "[::]:1", "127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "224.0.0.1:1", "[ff02::1]:1",
		"255.255.255.255:1", "169.254.1.1:1", "[fe80::1]:1", "[fe80::1%1]:1", "192.0.2.1:0", "203.0.113.9:1234",
	} {
		if err := a.AddRemote(Candidate{Addr: netip.MustParseAddrPort(s)}); !errors.Is(err, ErrAddress) {
			t.Errorf("%s: got %v, want %v", s, err, ErrAddress)
		}
	}
	for _, c := range h.hostCandidates() {
		if err := a.AddRemote(c); !errors.Is(err, ErrAddress) {
			t.Errorf("own address %v: got %v, want %v", c, err, ErrAddress)
		}
		c.Addr = netip.AddrPortFrom(c.Addr.Addr(), c.Addr.Port()^1) // another host on this machine
		if err := a.AddRemote(c); err != nil {
			t.Error(err)
		}
	}
	if err := a.AddRemote(Candidate{}); !errors.Is(err, ErrAddress) {
		t.Errorf("no address: got %v, want %v", err, ErrAddress)
	}
	if err := a.AddRemote(Candidate{Type: 9, Addr: netip.MustParseAddrPort("192.0.2.1:1")}); !errors.Is(err, ErrAddress) {
		t.Errorf("unknown type: got %v, want %v", err, ErrAddress)
	}
	for i := range uint16(maxRemote) {
		c := Candidate{Type: CandidateType(i % 4), Addr: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.77"), 5000+i)}
		if err = a.AddRemote(c); err != nil {
			break
		}
	}
	extra := Candidate{Addr: netip.MustParseAddrPort("192.0.2.77:9")}
	if err := a.AddRemote(extra); !errors.Is(err, ErrTooMany) {
		t.Errorf("more than %d: got %v, want %v", maxRemote, err, ErrTooMany)
	}
	a.Close()
	if err := a.AddRemote(extra); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: got %v, want %v", err, net.ErrClosed)
	}
}

func TestFailed(t *testing.T) {
	testOnlyFailed = 300 * time.Millisecond
	defer func() { testOnlyFailed = 0 }()
	h := listen(t, Config{})
	a := agent(t, h, CredentialsFromSeed(seed(15)), CredentialsFromSeed(seed(16)), true)
	heard := make(chan struct{}, 1)
	add(t, a, newSilent(t, heard))
	if o := wait(t, connect(t.Context(), a)); !errors.Is(o.err, ErrFailed) {
		t.Errorf("got %v, want %v", o.err, ErrFailed)
	}
}
