package tunnel

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestServe(t *testing.T) {
	target, _ := service(t, "tcp", "127.0.0.1:0", echo)
	other, _ := service(t, "tcp", "127.0.0.1:0", echo)
	socket, _ := service(t, "unix", filepath.Join(t.TempDir(), "s"), echo)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone, err := ParseTarget(dead.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	named := Target{Host: "localhost", Port: target.Port}
	six := Target{Host: "::1", Port: target.Port}
	for _, c := range []struct {
		name  string
		offer Offer
		to    Target
		code  uint32 // 0 for accepted
	}{
		{"default", offering(target, gone), Target{}, 0},
		{"named", offering(gone, target), target, 0},
		{"offered by another name", offering(target), named, 0},
		{"asked for by another name", offering(named), target, 0},
		{"asked for by ::1", offering(named), six, 0},
		{"socket", offering(socket), socket, 0},
		{"any", offeringAll(), other, 0},
		{"default with any", offeringAll(), Target{}, CodeRefused},
		{"nothing offered", Offer{}, Target{}, CodeRefused},
		{"not offered", offering(target), other, CodeRefused},
		{"socket not offered", offering(target), socket, CodeRefused},
		{"same port of another host", offering(target), Target{Host: "127.0.0.2", Port: target.Port}, CodeRefused},
		{"unreachable", offering(gone), Target{}, CodeUnreachable},
		{"no socket", offeringAll(), Target{Path: "/nonexistent/s"}, CodeUnreachable},
		{"no such host", offeringAll(), Target{Host: "no-such-host.invalid", Port: 1}, CodeUnreachable},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := newSessions(t)
			sink, seen := events()
			serving(t, b, c.offer, Options{OnStream: sink})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var out strings.Builder
			err := Stdio(ctx, a, c.to, strings.NewReader("hello"), &out)
			var refused *RefusedError
			switch {
			case c.code == 0 && (err != nil || out.String() != "hello"):
				t.Errorf("%q, %v; want the echo", out.String(), err)
			case c.code != 0 && (!errors.As(err, &refused) || refused.Code != c.code || refused.Reason == ""):
				t.Errorf("%v, want a refusal with code %d", err, c.code)
			}
			want := StateOpen
			if c.code != 0 {
				want = StateRefused
			}
			if e := next(t, seen); e.State != want {
				t.Errorf("event %+v, want %s", e, want)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	a, b := newSessions(t)
	serving(t, b, offeringAll(), Options{})
	for _, h := range []string{"", "\x07", "\x02nonsense", "\x03"} {
		st, err := a.Open(t.Context(), []byte(h))
		if err != nil {
			t.Fatal(err)
		}
		var refused *RefusedError
		want := CodeUsage
		if h == "\x03" {
			want = CodeRefused
		}
		if err := st.WaitAccepted(t.Context()); !errors.As(err, &refused) || refused.Code != want {
			t.Errorf("header %q: %v, want code %d", h, err, want)
		}
	}
}

// Addresses without an answer leave time for the others.
func TestDialFirst(t *testing.T) {
	for _, test := range []struct {
		name  string
		addrs []string
		want  string // the one that answers; "" for none
		after time.Duration
	}{
		{"one", []string{"good"}, "good", 0},
		{"the second", []string{"hole", "good"}, "good", 5 * time.Second},
		{"behind a refusal", []string{"bad", "hole", "good"}, "good", 5 * time.Second},
		{"the last of eight", []string{"hole", "hole", "hole", "hole", "hole", "hole", "hole", "good"}, "", dialTimeout},
		{"the fifth of eight", []string{"hole", "hole", "hole", "hole", "good", "hole", "hole", "hole"}, "good", 8 * time.Second},
		{"none", []string{"hole", "bad"}, "", 5 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), dialTimeout)
				defer cancel()
				began, got := time.Now(), ""
				c, err := dialFirst(ctx, test.addrs, func(ctx context.Context, addr string) (net.Conn, error) {
					switch addr {
					case "good":
						got = addr
						return new(net.TCPConn), nil
					case "hole":
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return nil, syscall.ECONNREFUSED
				})
				if got != test.want || (c == nil) != (test.want == "") || (err == nil) != (test.want != "") || time.Since(began) != test.after {
					t.Errorf("%q, %v after %v; want %q after %v", got, err, time.Since(began), test.want, test.after)
				}
			})
		})
	}
}

// Dials that get no answer are given up after dialTimeout, and only so many run at once.
func TestSlowDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newSessions(t)
		var dialing, most atomic.Int64
		serving(t, b, Offer{Gate: NewGate("", Policy{Targets: []Rule{Any}}, nil), testOnlyDial: func(ctx context.Context, _ Target) (conn, error) {
			most.Store(max(most.Load(), dialing.Add(1)))
			defer dialing.Add(-1)
			<-ctx.Done()
			return nil, &net.OpError{Op: "dial", Err: ctx.Err()}
		}}, Options{})
		const n = maxDials + 10
		streams := make([]Stream, n)
		done := make(chan struct{})
		began := time.Now()
		go func() {
			defer close(done)
			for i := range streams {
				st, err := a.Open(t.Context(), headerTo(Target{Host: "blackhole", Port: i + 1}).encode())
				if err != nil {
					t.Error(err)
					return
				}
				streams[i] = st
			}
		}()
		<-done
		synctest.Wait()
		if got := dialing.Load(); got != maxDials {
			t.Errorf("%d dials at once, want %d", got, maxDials)
		}
		for i, st := range streams {
			var refused *RefusedError
			if err := st.WaitAccepted(t.Context()); !errors.As(err, &refused) || refused.Code != CodeUnreachable || !strings.Contains(refused.Reason, "no answer within 10s") {
				t.Fatalf("stream %d: %v, want a refusal that says why", i, err)
			}
		}
		if took := time.Since(began); took != 2*dialTimeout || most.Load() > maxDials {
			t.Errorf("it took %v with %d dials at once, want %v and %d", took, most.Load(), 2*dialTimeout, maxDials)
		}
	})
}

// The end of the context does not wait for dials, nor for room to dial.
func TestCancelWhileDialing(t *testing.T) {
	for _, n := range []int{1, maxDials + 5} {
		a, b := newSessions(t)
		dialing := make(chan struct{}, n)
		stop := serving(t, b, Offer{Gate: NewGate("", Policy{Targets: []Rule{Any}}, nil), testOnlyDial: func(ctx context.Context, _ Target) (conn, error) {
			dialing <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}}, Options{})
		for i := range n {
			if _, err := a.Open(t.Context(), headerTo(Target{Host: "blackhole", Port: i + 1}).encode()); err != nil {
				t.Fatal(err)
			}
		}
		for range min(n, maxDials) {
			<-dialing
		}
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v, want %v", err, context.Canceled)
		}
	}
}

// A stream that its opener resets does not keep on dialling.
func TestResetWhileDialing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newSessions(t)
		ended := make(chan error, 1)
		serving(t, b, Offer{Gate: NewGate("", Policy{Targets: []Rule{Any}}, nil), testOnlyDial: func(ctx context.Context, _ Target) (conn, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		}}, Options{})
		st, err := a.Open(t.Context(), headerTo(Target{Host: "blackhole", Port: 1}).encode())
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it dials
		_ = st.Reset(CodeReset)
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the dial ended with %v, want %v", err, context.Canceled)
		}
	})
}

func TestReasonIsBounded(t *testing.T) {
	a, b := newSessions(t)
	serving(t, b, Offer{}, Options{})
	err := Stdio(t.Context(), a, Target{Path: "/" + strings.Repeat("x", maxPathBytes-1)}, strings.NewReader(""), nil)
	var refused *RefusedError
	if !errors.As(err, &refused) || len(refused.Reason) > maxReasonBytes {
		t.Errorf("%v, want a refusal of at most %d bytes", err, maxReasonBytes)
	}
}

func TestPlain(t *testing.T) {
	for want, err := range map[string]error{
		"no such host":         &net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true, Server: "192.0.2.53"}},
		"no answer within 10s": &net.OpError{Op: "dial", Err: context.DeadlineExceeded},
		"connection refused":   &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)},
		"no such socket":       &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ENOENT)},
		"dial failed":          errors.New("secret 192.0.2.1"),
	} {
		if runtime.GOOS == "windows" {
			continue
		}
		if got := plain(err); got != want {
			t.Errorf("plain(%v) = %q, want %q", err, got, want)
		}
	}
	if got := printable("a\x1b[31m\nb\xff" + strings.Repeat("é", 300)); !strings.HasPrefix(got, "a[31mbéé") || len(got) > maxReasonBytes {
		t.Errorf("printable: %q", got)
	}
}
