//go:build unix

package acceptance

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// TestManyConnections opens 200 connections at once through one forward, each with data of its own.
func TestManyConnections(t *testing.T) {
	testtier.Long(t)
	const connections, size = 200, 100_000
	w := newWorld(t)
	left, right := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}), w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
	echo := listen(t, left, func(c net.Conn) { _, _ = io.Copy(c, c) }) // what is missing, the client sees
	exposer, code := w.expose(left, echo.String())
	connecter, port := w.forward(right, code)

	began := time.Now()
	results := make(chan error, connections)
	ready := make(chan struct{})
	for i := range connections {
		c := dial(t, right, port)
		go func() {
			<-ready // all of them are open before the first byte
			results <- echoed(c, byte(i), size)
		}()
	}
	close(ready)
	for range connections {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d connections with %d bytes each way in %v", connections, size, time.Since(began))
	ends(connecter, exposer)
}

// echoed sends random data, ends its direction, and checks that the same comes back, and then the end.
func echoed(c *net.TCPConn, seed byte, size int64) error {
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	sent := make(chan error, 1)
	want := sha256.New()
	go func() {
		_, err := io.Copy(io.MultiWriter(c, want), random(seed, size))
		if err == nil {
			err = c.CloseWrite()
		}
		sent <- err
	}()
	got := sha256.New()
	n, err := io.Copy(got, c)
	if e := <-sent; err == nil {
		err = e
	}
	switch {
	case err != nil:
		return fmt.Errorf("connection %d after %d bytes: %w", seed, n, err)
	case !bytes.Equal(got.Sum(nil), want.Sum(nil)):
		return fmt.Errorf("connection %d: %d bytes came back changed, %d were sent", seed, n, size)
	}
	return nil
}

// TestHalfClose: the end of one direction passes through and leaves the other open.
func TestHalfClose(t *testing.T) {
	w := newWorld(t)
	left, right := w.lab.Host(netlab.None, netlab.HostOptions{}), w.lab.Host(netlab.None, netlab.HostOptions{})
	// It answers only after the end of the request.
	service := listen(t, left, func(c net.Conn) {
		n, _ := io.Copy(io.Discard, c)
		fmt.Fprintf(c, "%d bytes", n)
	})
	exposer, code := w.expose(left, service.String())
	connecter, port := w.forward(right, code)
	c := dial(t, right, port)
	if _, err := c.Write(make([]byte, 12345)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(c); err != nil || string(b) != "12345 bytes" {
		t.Errorf("got %q, %v", b, err)
	}
	ends(connecter, exposer)
}

// TestForwards: several targets and forwards in one session, and a reset for what is not exposed.
func TestForwards(t *testing.T) {
	w := newWorld(t)
	left, right := w.lab.Host(netlab.None, netlab.HostOptions{}), w.lab.Host(netlab.None, netlab.HostOptions{})
	say := func(text string) netip.AddrPort {
		return listen(t, left, func(c net.Conn) { _, _ = io.WriteString(c, text) })
	}
	one, two, secret := say("one"), say("two"), say("secret")
	exposer, code := w.expose(left, one.String(), two.String())
	connecter := w.connect(right, code, "-L", "0", "-L", "0:"+two.String(), "-L", "0:"+secret.String())
	for _, want := range []string{"one", "two", ""} {
		e, _ := connecter.await("listening")
		var b []byte
		c, err := right.Dial(t.Context(), "tcp", netip.MustParseAddrPort(e.Addr))
		if err == nil { // what is refused may be reset before the dial is through
			_ = c.SetReadDeadline(time.Now().Add(patience))
			b, err = io.ReadAll(c)
			_ = c.Close()
		}
		if string(b) != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v, want %q", e.Target, b, err, want)
		}
	}
	ends(connecter, exposer)
}
