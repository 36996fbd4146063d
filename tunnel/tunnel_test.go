package tunnel

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const patience = 20 * time.Second

func TestForward(t *testing.T) {
	dir := t.TempDir()
	type place struct{ network, addr, listen string }
	var places []place
	for i, a := range loopbacks(t) {
		places = append(places, place{"tcp", a, a}, place{"unix", fmt.Sprintf("%s/t%d", dir, i), fmt.Sprintf("%s/l%d", dir, i)})
	}
	for i, from := range places {
		for j, to := range places {
			t.Run(from.listen+" to "+to.addr, func(t *testing.T) {
				a, b := newSessions(t)
				if to.network == "unix" {
					to.addr += fmt.Sprint(i, j)
				}
				target, conns := service(t, to.network, to.addr, nil)
				sink, seen := events()
				serving(t, b, offering(target), Options{})
				l := listening(t, a, from.listen+":"+strings.TrimPrefix(target.String(), "unix:"), Options{OnStream: sink})
				c := dialed(t, l.Addr())
				x := accepted(t, conns)

				// The client's end first, then the target's.
				say(t, c, "question", true)
				text(t, x, "question")
				say(t, x, "answer", true)
				text(t, c, "answer")
				if e := next(t, seen); e.State != StateOpen || e.Target != target.String() {
					t.Errorf("event %+v, want open", e)
				}
				if e := next(t, seen); e.State != StateClosed || e.Sent != 8 || e.Received != 6 {
					t.Errorf("event %+v, want closed with 8 and 6 bytes", e)
				}

				// The target's end first, then the client's.
				c = dialed(t, l.Addr())
				x = accepted(t, conns)
				say(t, x, "greeting", true)
				text(t, c, "greeting")
				say(t, c, "late", true)
				text(t, x, "late")
			})
		}
	}
}

func TestResets(t *testing.T) {
	target, conns := service(t, "tcp", "127.0.0.1:0", nil)
	a, b := newSessions(t)
	serving(t, b, offering(target), Options{})
	sink, seen := events()
	l := listening(t, a, "0", Options{OnStream: sink})
	open := func(t *testing.T) (c, x conn) {
		c = dialed(t, l.Addr())
		x = accepted(t, conns)
		say(t, c, "there", false)
		if _, err := io.ReadFull(x, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		opened(t, seen)
		return c, x
	}
	for name, do := range map[string]func(t *testing.T, c, x conn){
		"client": func(t *testing.T, c, x conn) { abort(c); wantReset(t, x) },
		"target": func(t *testing.T, c, x conn) { abort(x); wantReset(t, c) },
		"client after its end": func(t *testing.T, c, x conn) {
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			text(t, x, "")
			abort(x)
			wantReset(t, c)
		},
		"client that closed while the target sends": func(t *testing.T, c, x conn) {
			c.Close()
			text(t, x, "")
			var err error
			for err == nil {
				_, err = x.Write(make([]byte, 64<<10))
			}
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Fatalf("write: %v, want a reset", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, x := open(t)
			do(t, c, x)
			if e := next(t, seen); e.State != StateReset || e.Reason == "" {
				t.Errorf("event %+v, want reset with a reason", e)
			}
		})
	}
}

func TestRefusedConnection(t *testing.T) {
	a, b := newSessions(t)
	serving(t, b, Offer{}, Options{})
	sink, seen := events()
	l := listening(t, a, "0:localhost:1", Options{OnStream: sink})
	dialReset(t, l.Addr())
	if e := next(t, seen); e.State != StateRefused || !strings.Contains(e.Reason, "localhost:1 is not offered") || e.Peer == "" {
		t.Errorf("event %+v, want refused with the reason", e)
	}
}

func TestManyConnections(t *testing.T) {
	target, _ := service(t, "tcp", "127.0.0.1:0", echo)
	a, b := newSessions(t)
	serving(t, b, offering(target), Options{})
	l := listening(t, a, "0", Options{})
	manyConnections(t, l.Addr(), 200, 300<<10)
}

// manyConnections sends size bytes over each of n connections at once and wants them back.
func manyConnections(t *testing.T, addr net.Addr, n, size int) {
	conns := make([]conn, n)
	for i := range conns {
		conns[i] = dialed(t, addr)
	}
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			sent := make([]byte, size)
			rand.New(rand.NewSource(int64(i))).Read(sent)
			go func() {
				_, _ = c.Write(sent) // the sum tells
				_ = c.CloseWrite()
			}()
			h := sha256.New()
			if n, err := io.Copy(h, c); err != nil || n != int64(len(sent)) || [32]byte(h.Sum(nil)) != sha256.Sum256(sent) {
				t.Errorf("connection %d: %d bytes back, %v", i, n, err)
			}
		})
	}
	wg.Wait()
}

func TestContextEndsAll(t *testing.T) {
	target, conns := service(t, "tcp", "127.0.0.1:0", nil)
	a, b := newSessions(t)
	sink, seen := events()
	stop := serving(t, b, offering(target), Options{OnStream: sink})
	ctx, cancel := context.WithCancelCause(t.Context())
	l, err := Listen(ctx, a, Forward{Bind: "localhost"}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := dialed(t, l.Addr())
	x := accepted(t, conns)
	opened(t, seen)
	cancel(nil)
	wantReset(t, c)
	wantReset(t, x)
	l.Close()
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v, want the cause of its context", err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("it still listens")
	}
}

func TestServeEndsConnections(t *testing.T) {
	target, conns := service(t, "tcp", "127.0.0.1:0", nil)
	a, b := newSessions(t)
	sink, seen := events()
	stop := serving(t, b, offering(target), Options{OnStream: sink})
	l := listening(t, a, "0", Options{})
	c := dialed(t, l.Addr())
	x := accepted(t, conns)
	opened(t, seen)
	_ = stop()
	wantReset(t, c)
	wantReset(t, x)
}

func TestSessionEnds(t *testing.T) {
	target, conns := service(t, "tcp", "127.0.0.1:0", nil)
	a, b := newSessions(t)
	done := make(chan error, 1)
	sink, seen := events()
	go func() {
		done <- Serve(context.Background(), b, offering(target), Options{OnStream: sink})
	}()
	l := listening(t, a, "0", Options{})
	c := dialed(t, l.Addr())
	x := accepted(t, conns)
	opened(t, seen)
	a.Close()
	wantReset(t, c)
	wantReset(t, x)
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v, want net.ErrClosed", err)
	}
	dialReset(t, l.Addr())
}
