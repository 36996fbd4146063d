package reach

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"adit/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// What there is a way to is dialled as ever, and an error that is not about the way is not made up for.
func TestDial(t *testing.T) {
	l := listen(t)
	var d Dialer
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	_ = l.Close()
	if c, err = d.DialContext(t.Context(), "tcp", l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connected to nobody: %v", err)
		_ = c.Close()
	}
	if !unreachable(&net.OpError{Err: errors.Join(errors.New("x"), syscall.ENETUNREACH)}) || unreachable(net.ErrClosed) {
		t.Error("unreachable does not tell the errors apart")
	}
}

// A try that gets no answer holds up nobody, and leaves no connection.
func TestDialBeside(t *testing.T) {
	for lost := range 3 {
		l := listen(t)
		var tries atomic.Int32
		held := make(chan struct{})
		d := Dialer{Dialer: net.Dialer{ControlContext: func(ctx context.Context, _, _ string, _ syscall.RawConn) error {
			if int(tries.Add(1)) > lost {
				return nil
			}
			<-held
			return ctx.Err() // nil, if nobody told it that it is late
		}}}
		began := time.Now()
		c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); lost > 0 && took < beside[lost-1] {
			t.Errorf("%d tries had not been lost after %v", lost, took)
		}
		if n := int(tries.Load()); n < lost+1 {
			t.Errorf("%d tries, want %d", n, lost+1)
		}
		close(held)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Errorf("the connection: %v", err)
		}
		_ = c.Close()
	}
}

// Of two that come up at once one is kept, and the other is closed.
func TestDialClosesOthers(t *testing.T) {
	l := listen(t)
	both := make(chan struct{})
	var tries atomic.Int32
	d := Dialer{Dialer: net.Dialer{ControlContext: func(context.Context, string, string, syscall.RawConn) error {
		if tries.Add(1) == 2 {
			close(both)
		}
		<-both
		return nil
	}}}
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = l.SetDeadline(time.Now().Add(2 * time.Second))
	for open := 0; ; {
		s, err := l.Accept()
		if err != nil {
			t.Fatalf("%d connections, want the one that was returned: %v", open, err)
		}
		if s.RemoteAddr().String() == c.LocalAddr().String() {
			_ = s.Close()
			return
		}
		_ = s.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := s.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("another connection stays open: %v", err)
		}
		_ = s.Close()
		open++
	}
}

// A caller who waits no longer gets that, and soon.
func TestDialCancelled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond) // two tries are under way
	defer cancel()
	d := Dialer{Dialer: net.Dialer{ControlContext: func(ctx context.Context, _, _ string, _ syscall.RawConn) error {
		<-ctx.Done()
		return ctx.Err()
	}}}
	began := time.Now()
	if c, err := d.DialContext(ctx, "tcp", listen(t).Addr().String()); err == nil {
		_ = c.Close()
		t.Error("connected")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}
