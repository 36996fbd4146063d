package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// serving runs Serve on s until the test ends or the returned function is called.
func serving(t testing.TB, s Session, o Offer, opts Options) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, s, o, opts) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case err = <-done:
			case <-time.After(patience):
				t.Error("Serve does not end")
			}
		})
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

// listening starts a listener that is closed with the test.
func listening(t testing.TB, s Session, forward string, opts Options) *Listener {
	t.Helper()
	f, err := ParseForward(forward)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(context.Background(), s, f, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// service is a target: it hands its connections to the test, or to a function.
func service(t testing.TB, network, addr string, handle func(conn)) (Target, <-chan conn) {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	conns := make(chan conn, 16)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if handle == nil {
				conns <- c.(conn)
				continue
			}
			wg.Go(func() { handle(c.(conn)) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	name := l.Addr().String()
	if network == "unix" {
		name = "unix:" + name
	}
	target, err := ParseTarget(name)
	if err != nil {
		t.Fatal(err)
	}
	return target, conns
}

func echo(c conn) {
	defer c.Close()
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
}

func dialed(t testing.TB, addr net.Addr) conn {
	t.Helper()
	c, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c.(conn)
}

func accepted(t testing.TB, conns <-chan conn) conn {
	t.Helper()
	select {
	case c := <-conns:
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		return c
	case <-time.After(patience):
		t.Fatal("no connection at the target")
	}
	return nil
}

// events returns a callback and what it was called with.
func events() (func(StreamEvent), <-chan StreamEvent) {
	c := make(chan StreamEvent, 1024)
	return func(e StreamEvent) { c <- e }, c
}

func next(t *testing.T, c <-chan StreamEvent) StreamEvent {
	t.Helper()
	select {
	case e := <-c:
		return e
	case <-time.After(patience):
		t.Fatal("no event")
	}
	return StreamEvent{}
}

// opened waits until Serve has joined a stream to its target. Before that it may end the connection
// it dials without a reset: net.Dialer closes one that comes as its context ends.
func opened(t *testing.T, seen <-chan StreamEvent) {
	t.Helper()
	if e := next(t, seen); e.State != StateOpen {
		t.Fatalf("event %+v, want open", e)
	}
}

func text(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q and its end", got, err, want)
	}
}

func say(t *testing.T, c conn, s string, end bool) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
	if end {
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
}

// wantReset reads until the connection fails, and wants it to fail by a reset.
func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read: %v, want %v", err, syscall.ECONNRESET)
	}
}

// dialReset connects and wants a reset, which may come so soon that connect itself reports it.
func dialReset(t *testing.T, addr net.Addr) {
	t.Helper()
	c, err := net.Dial(addr.Network(), addr.String())
	if err == nil {
		defer c.Close()
		// Whichever call meets the reset reports it; Linux does so once.
		if err = c.SetDeadline(time.Now().Add(patience)); err == nil {
			_, err = c.Write([]byte("sent before the reply"))
		}
	}
	if err == nil {
		_, err = io.Copy(io.Discard, c)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("%v, want %v", err, syscall.ECONNRESET)
	}
}

func loopbacks(t *testing.T) []string {
	list := []string{"127.0.0.1:0"}
	if l, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		l.Close()
		return append(list, "[::1]:0")
	}
	t.Log("no IPv6 loopback here")
	return list
}
