package tunnel

import (
	"context"
	"io"
	"net"
	"testing"
)

// TestDrain has a listener stop and its open connection go on.
func TestDrain(t *testing.T) {
	target, _ := service(t, "tcp", "127.0.0.1:0", echo)
	a, b := newSessions(t)
	serving(t, b, offering(target), Options{})
	l, err := Listen(context.Background(), a, Forward{Bind: "127.0.0.1", Target: target}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr()
	c := dialed(t, addr)
	talks(t, c)
	l.Drain()
	l.Drain()
	if c, err := net.Dial("tcp", addr.String()); err == nil {
		c.Close()
		t.Error("it still listens")
	}
	talks(t, c)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("Close left the connection open")
	}
}

// TestRemoteGoesOn has the peer listen no more while a connection there is open, and the rules change
// while it still listens.
func TestRemoteGoesOn(t *testing.T) {
	target, _ := service(t, "tcp", "127.0.0.1:0", echo)
	x, y := reliableSessions(t)
	gate := NewGate("bob", Policy{Remote: rules(t, "0")}, nil)
	serving(t, Over(y), Offer{Gate: gate}, Options{})
	r := NewRemotes()
	serving(t, Over(x), Offer{Remotes: r}, Options{})
	m, err := remote(t, Over(x), r, "0:"+target.String())
	if err != nil {
		t.Fatal(err)
	}
	addr, err := net.ResolveTCPAddr("tcp", m.Addr())
	if err != nil {
		t.Fatal(err)
	}
	c := dialed(t, addr)
	talks(t, c)

	gate.Set(Policy{})
	if refused, err := net.Dial("tcp", m.Addr()); err == nil { // it may be reset before the dial is through
		if _, err := refused.Read(make([]byte, 1)); err == nil {
			t.Error("a connection came through although the rules forbid it now")
		}
		refused.Close()
	}
	talks(t, c)

	if err := m.Close(); err != nil {
		t.Error(err)
	}
	waitUntil(t, func() bool {
		c, err := net.Dial("tcp", m.Addr())
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	talks(t, c)
}

// talks sends something over c, and wants it back.
func talks(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("got %q, %v back", b, err)
	}
}
