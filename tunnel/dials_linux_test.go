package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/proxy"
	"golang.org/x/sys/unix"
)

// full listens and accepts nothing: its backlog takes no more connections. drain accepts those that come.
func full(t *testing.T, at unix.Sockaddr, domain int) (fd int) {
	t.Helper()
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, at); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	return fd
}

// silentPort returns a port of the loopback that answers nothing: a listener whose backlog is full.
func silentPort(t *testing.T) int {
	t.Helper()
	fd := full(t, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, unix.AF_INET)
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := name.(*unix.SockaddrInet4).Port
	for {
		d := net.Dialer{Timeout: 500 * time.Millisecond}
		c, err := d.Dial("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			return port
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
}

// Beside 600 connections to a listener that does not take them, another target answers as if it were alone.
func TestGoodTargetBesideSilentOnes(t *testing.T) {
	good, _ := service(t, "tcp", "127.0.0.1:0", echo)
	hole := Target{Host: "127.0.0.1", Port: silentPort(t)}
	x, y := reliableSessions(t)
	gate := NewGate("", Policy{Targets: []Rule{Any}, Dynamic: []Rule{Any}}, nil)
	serving(t, Over(y), Offer{Gate: gate}, Options{})
	toGood, toHole := listening(t, Over(x), "0:"+good.String(), Options{}), listening(t, Over(x), "0:"+hole.String(), Options{})
	socks, err := ListenDynamic(t.Context(), Over(x), Forward{Bind: "localhost"}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socks.Close() })
	for range 300 {
		dialed(t, toHole.Addr())
		if _, err := dialed(t, socks.Addr()).Write(request(socksConnect, []byte{socksIPv4, 127, 0, 0, 1}, hole.Port)); err != nil {
			t.Fatal(err)
		}
	}
	waitUntil(t, func() bool { return y.NumStreams() == 600 })

	began := time.Now()
	c := dialed(t, toGood.Addr())
	say(t, c, "through -L", true)
	text(t, c, "through -L")
	byL := time.Since(began)
	began = time.Now()
	d, err := proxy.SOCKS5("tcp", socks.Addr().String(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Dial("tcp", good.String())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(s, "through -D"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if _, err := io.ReadFull(s, b); err != nil || string(b) != "through -D" {
		t.Fatalf("%q, %v", b, err)
	}
	byD := time.Since(began)
	t.Logf("answers beside 600 silent dials: %v by -L, %v by -D", byL, byD)
	if byL+byD > maxTurnWait {
		t.Errorf("answers took %v by -L and %v by -D beside silent dials, want less than these take", byL, byD)
	}
}

// A unix socket whose backlog is full is waited for, as a program that connects to it would wait.
func TestFullUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd := full(t, &unix.SockaddrUnix{Name: path}, unix.AF_UNIX)
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for {
		c, err := net.Dial("unix", path)
		if err != nil {
			break
		}
		held = append(held, c)
	}
	a, b := newSessions(t)
	serving(t, b, offeringAll(), Options{})
	var out strings.Builder
	done := async(func() error { return Stdio(t.Context(), a, Target{Path: path}, strings.NewReader(""), &out) })
	ctx, cancel := context.WithTimeout(t.Context(), 10*unixRetry) // for what must not happen
	defer cancel()
	select {
	case err := <-done:
		t.Fatalf("%v, want it to wait", err)
	case <-ctx.Done():
	}
	for range len(held) + 1 { // takes them all
		n, _, err := unix.Accept(fd)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = unix.Write(n, []byte("taken"))
		unix.Close(n)
	}
	if err := outcome(t, done); err != nil || out.String() != "taken" {
		t.Errorf("%q, %v; want the answer", out.String(), err)
	}
}
