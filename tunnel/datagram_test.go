package tunnel

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// udpEcho is a target that sends back what comes.
func udpEcho(t testing.TB) Target {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	target, err := ParseTarget(c.LocalAddr().String() + "/udp")
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// asked sends p to addr from a socket of its own and checks that it comes back.
func asked(t testing.TB, addr string, p []byte) {
	t.Helper()
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answered(t, c, p)
}

func answered(t testing.TB, c net.Conn, p []byte) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(p); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, maxDatagram)
	n, err := c.Read(buf)
	if err != nil || !bytes.Equal(buf[:n], p) {
		t.Fatalf("%d bytes came back, %v, want the same %d", n, err, len(p))
	}
}

func TestDatagramForward(t *testing.T) {
	target := udpEcho(t)
	x, y := reliableSessions(t)
	sink, seen := events()
	serving(t, Over(y), offering(Target{Host: "localhost", Port: 1}, target), Options{OnStream: sink})
	l := listening(t, Over(x), "0:"+target.String(), Options{})
	def := listening(t, Over(x), "0/udp", Options{})

	c, err := net.Dial("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	big := make([]byte, 65507)
	rand.New(rand.NewSource(1)).Read(big)
	for _, p := range [][]byte{[]byte("first"), []byte("second"), {}, big[:1500], big[:40000], big} {
		answered(t, c, p)
	}
	if e := <-seen; e.State != StateOpen || e.Target != target.String() {
		t.Errorf("event %+v, want it open", e)
	}
	asked(t, def.Addr().String(), []byte("the default"))
	for range 20 {
		asked(t, l.Addr().String(), []byte("a source of its own"))
	}
	l.Close()
	for e := range seen { // its flows end at the other side too
		if e.State == StateClosed && e.Received > 100_000 {
			break
		}
	}
}

func TestDatagramsRefused(t *testing.T) {
	target := udpEcho(t)
	other := target
	other.UDP = false
	x, y := reliableSessions(t)
	serving(t, Over(y), offering(other), Options{})
	for forward, reason := range map[string]string{
		"0:" + target.String(): target.String() + " is not offered",
		"0/udp":                "no default target for datagrams",
	} {
		sink, seen := events()
		l := listening(t, Over(x), forward, Options{OnStream: sink})
		c, err := net.Dial("udp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 5 { // not asked for each time
			_, _ = c.Write([]byte("x"))
		}
		if e := <-seen; e.State != StateRefused || !strings.Contains(e.Reason, reason) {
			t.Errorf("event %+v, want a refusal with %q", e, reason)
		}
		select {
		case e := <-seen:
			t.Errorf("event %+v, want one", e)
		default:
		}
	}
}

func waitUntil(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatal("what was waited for did not happen")
		}
		c, stop := context.WithTimeout(t.Context(), 5*time.Millisecond)
		<-c.Done()
		stop()
	}
}

// remote has the peer of s listen, while both sides serve.
func remote(t testing.TB, s Session, r *Remotes, forward string) (*RemoteListener, error) {
	t.Helper()
	f, err := ParseForward(forward)
	if err != nil {
		t.Fatal(err)
	}
	return r.Listen(t.Context(), s, f)
}

func TestRemote(t *testing.T) {
	target, _ := service(t, "tcp", "127.0.0.1:0", echo)
	datagrams := udpEcho(t)
	socket := filepath.Join(t.TempDir(), "s")
	x, y := reliableSessions(t)
	gate := NewGate("", Policy{Remote: rules(t, "0", "0/udp", socket)}, nil)
	serving(t, Over(y), Offer{Gate: gate}, Options{})
	r := NewRemotes()
	serving(t, Over(x), Offer{Remotes: r}, Options{})

	for _, network := range []string{"tcp", "unix"} {
		place := "0"
		if network == "unix" {
			place = socket
		}
		m, err := remote(t, Over(x), r, place+":"+target.String())
		if err != nil {
			t.Fatal(err)
		}
		addr := net.Addr(&net.UnixAddr{Name: m.Addr(), Net: "unix"})
		if network == "tcp" {
			if addr, err = net.ResolveTCPAddr("tcp", m.Addr()); err != nil {
				t.Fatal(err)
			}
		}
		c := dialed(t, addr)
		say(t, c, "hello", true)
		text(t, c, "hello")
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		waitUntil(t, func() bool {
			c, err := net.Dial(network, m.Addr())
			if err == nil {
				c.Close()
			}
			return err != nil
		})
	}
	m, err := remote(t, Over(x), r, "0:"+datagrams.String())
	if err != nil {
		t.Fatal(err)
	}
	asked(t, m.Addr(), []byte("hello"))
	_ = m.Close()

	for forward, code := range map[string]uint32{
		"8080:" + target.String():               CodeRefused,
		"*:0:" + target.String():                CodeRefused,
		socket + "x:" + target.String():         CodeRefused,
		"[192.0.2.1]:0:" + target.String():      CodeRefused,
		"8080:" + datagrams.String():            CodeRefused,
		socket + "/../../x/:" + target.String(): CodeRefused,
	} {
		_, err := remote(t, Over(x), r, strings.Replace(forward, "[192.0.2.1]", "192.0.2.1", 1))
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Code != code {
			t.Errorf("%s: %v, want a refusal with %d", forward, err, code)
		}
	}
	gate.Set(Policy{Remote: []Rule{Any}})
	var refused *RefusedError
	if _, err := remote(t, Over(x), r, "192.0.2.1:0:"+target.String()); !errors.As(err, &refused) || refused.Code != CodeUnreachable {
		t.Errorf("an address of another machine: %v, want CodeUnreachable", err)
	}
	if len(r.m) != 0 {
		t.Errorf("%d places are remembered after their end", len(r.m))
	}
}

// told is a writer that tells of what is written.
type told chan string

func (c told) Write(b []byte) (int, error) {
	c <- string(b)
	return len(b), nil
}

// Rules that change hold for the next source of datagrams, and for the next connection; what is there stays.
func TestRemoteAfterAChange(t *testing.T) {
	target, _ := service(t, "tcp", "127.0.0.1:0", echo)
	datagrams := udpEcho(t)
	x, y := reliableSessions(t)
	log := make(told, refusalBurst)
	gate := NewGate("", Policy{Remote: []Rule{Any}}, slog.New(slog.NewTextHandler(log, nil)))
	serving(t, Over(y), Offer{Gate: gate}, Options{})
	r := NewRemotes()
	serving(t, Over(x), Offer{Remotes: r}, Options{})
	m, err := remote(t, Over(x), r, "0:"+datagrams.String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := remote(t, Over(x), r, "0:"+target.String())
	if err != nil {
		t.Fatal(err)
	}
	old, err := net.Dial("udp", m.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	answered(t, old, []byte("before"))

	gate.Set(Policy{})
	c, err := net.Dial("udp", m.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		if _, err := c.Read(make([]byte, 10)); err == nil {
			log <- "an answer"
		}
	}()
	for range 3 { // are denied in one go
		if _, err := c.Write([]byte("after")); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case line := <-log:
		if !strings.Contains(line, "msg=refused") {
			t.Errorf("the log has %q, want a refusal", line)
		}
	case <-time.After(patience):
		t.Fatal("nothing is refused")
	}
	answered(t, old, []byte("still there"))
	if len(log) > 0 {
		t.Errorf("then the log has %q, want nothing", <-log)
	}
	c.Close()
	<-heard
	place, err := net.ResolveTCPAddr("tcp", n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	dialReset(t, place)
}

// A peer cannot come back from a place that nobody asked for.
func TestReturnUnasked(t *testing.T) {
	x, y := reliableSessions(t)
	serving(t, Over(y), Offer{Gate: NewGate("", Policy{Targets: []Rule{Any}}, nil), Remotes: NewRemotes()}, Options{})
	st, err := Over(x).Open(t.Context(), header{kind: kindReturn, id: 1}.encode())
	if err != nil {
		t.Fatal(err)
	}
	var refused *RefusedError
	if err := st.WaitAccepted(t.Context()); !errors.As(err, &refused) || refused.Code != CodeRefused {
		t.Errorf("%v, want a refusal", err)
	}
}

func TestRemoteEndsWithTheSession(t *testing.T) {
	target, _ := service(t, "tcp", "127.0.0.1:0", echo)
	x, y := reliableSessions(t)
	stop := serving(t, Over(y), Offer{Gate: NewGate("", Policy{Remote: []Rule{Any}}, nil)}, Options{})
	r := NewRemotes()
	serving(t, Over(x), Offer{Remotes: r}, Options{})
	m, err := remote(t, Over(x), r, "0:"+target.String())
	if err != nil {
		t.Fatal(err)
	}
	done := async(m.Wait)
	_ = stop()
	if err := outcome(t, done); err == nil {
		t.Error("no error from Wait")
	}
	if c, err := net.Dial("tcp", m.Addr()); err == nil {
		c.Close()
		t.Error("it still listens")
	}
}

// A place that somebody is about to let go of is waited for; one that stays in use is refused.
func TestRemoteWaitsForThePlace(t *testing.T) {
	target, _ := service(t, "tcp", "127.0.0.1:0", echo)
	x, y := reliableSessions(t)
	serving(t, Over(y), Offer{Gate: NewGate("", Policy{Remote: []Rule{Any}}, nil)}, Options{})
	r := NewRemotes()
	serving(t, Over(x), Offer{Remotes: r}, Options{})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	place := strings.TrimPrefix(taken.Addr().String(), "127.0.0.1:") + ":" + target.String()
	var refused *RefusedError
	if _, err := remote(t, Over(x), r, place); !errors.As(err, &refused) || refused.Code != CodeUnreachable {
		t.Errorf("a place in use: %v, want a refusal", err)
	}
	time.AfterFunc(2*inUseWait, func() { taken.Close() })
	m, err := remote(t, Over(x), r, place)
	if err != nil {
		t.Fatalf("a place that was let go of: %v", err)
	}
	m.Close()
}
