package tunnel

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

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
