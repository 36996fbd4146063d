package tunnel

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const patience = 20 * time.Second

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

func TestListenError(t *testing.T) {
	a, _ := newSessions(t)
	busy := listening(t, a, "0", Options{})
	path := filepath.Join(t.TempDir(), "s")
	listening(t, a, path, Options{})
	port := busy.Addr().(*net.TCPAddr).Port
	for _, f := range []Forward{
		{Bind: "localhost", Port: port}, {Bind: "127.0.0.1", Port: port}, {Path: path}, {Path: "/nonexistent/s"}, {Bind: "192.0.2.1", Port: 1},
	} {
		l, err := Listen(t.Context(), a, f, Options{OnListen: func(net.Addr, string) { t.Error("OnListen was called") }})
		var le *ListenError
		if !errors.Is(err, ErrListen) || !errors.As(err, &le) || le.Addr == "" || strings.Count(err.Error(), le.Addr) != 1 {
			t.Errorf("%v: %v, want ErrListen with one address", f, err)
		}
		if l != nil {
			l.Close()
		}
	}
	if _, err := Listen(t.Context(), a, Forward{Bind: "localhost", Port: port}, Options{}); runtime.GOOS != "windows" && !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("%v, want %v", err, syscall.EADDRINUSE)
	}
}

func TestListenReports(t *testing.T) {
	a, _ := newSessions(t)
	var addr net.Addr
	var target string
	l := listening(t, a, "0:web:80", Options{OnListen: func(a net.Addr, s string) { addr, target = a, s }})
	if addr != l.Addr() && addr.String() != l.Addr().String() || target != "web:80" || addr.(*net.TCPAddr).Port == 0 {
		t.Errorf("OnListen(%v, %q), want %v and web:80", addr, target, l.Addr())
	}
	for _, x := range l.Addrs() {
		if p := x.(*net.TCPAddr); !p.IP.IsLoopback() || p.Port != addr.(*net.TCPAddr).Port {
			t.Errorf("listens on %v too", x)
		}
	}
	all := listening(t, a, "*:0", Options{})
	dialed(t, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: all.Addr().(*net.TCPAddr).Port})
}

func TestUnixSocket(t *testing.T) {
	a, _ := newSessions(t)
	path := filepath.Join(t.TempDir(), "s")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false) // as if its process was killed
	old.Close()
	l := listening(t, a, path, Options{})
	info, err := os.Stat(path)
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want the socket to be for this user alone", info.Mode(), err)
	}
	l.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), a, Forward{Path: path}, Options{}); !errors.Is(err, ErrListen) {
		t.Errorf("over a file: %v, want ErrListen", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file is gone: %q, %v", b, err)
	}
}

// troubled is a listener that runs out of file descriptors for a while.
type troubled struct {
	net.Listener
	failures int
}

func (l *troubled) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

func TestAcceptBacksOff(t *testing.T) {
	target, _ := service(t, "tcp", "127.0.0.1:0", echo)
	a, b := newSessions(t)
	serving(t, b, offering(target), Options{})
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	l := &Listener{session: a, header: headerTo(Target{}), listeners: []net.Listener{inner}, stop: stop}
	l.wg.Go(func() { l.accept(ctx, &troubled{inner, 4}, l.serve) })
	defer l.Close()
	c := dialed(t, inner.Addr())
	say(t, c, "in spite of all", true)
	text(t, c, "in spite of all")
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
