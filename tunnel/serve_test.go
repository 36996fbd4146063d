package tunnel

import (
	"context"
	"errors"
	"maps"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
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
		{"nobody listens", offering(gone), Target{}, CodeDialRefused},
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

// silent is a dial without an answer.
func silent(ctx context.Context, _ Target) (conn, error) {
	<-ctx.Done()
	return nil, &net.OpError{Op: "dial", Err: ctx.Err()}
}

func offeringBy(dial func(context.Context, Target) (conn, error)) Offer {
	return Offer{Gate: NewGate("", Policy{Targets: []Rule{Any}}, nil), testOnlyDial: dial}
}

// errAnswered is how a target of a test answers at once.
var errAnswered = &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}

// A target that does not answer holds up nobody but the streams to itself, however many they are, and each of these
// is told why within dialTimeout.
func TestSilentTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newSessions(t)
		var dialing atomic.Int64
		serving(t, b, offeringBy(func(ctx context.Context, to Target) (conn, error) {
			if to.Host == "good" {
				return nil, errAnswered
			}
			dialing.Add(1)
			return silent(ctx, to)
		}), Options{})
		const n = 600
		began := time.Now()
		streams := make([]Stream, n)
		for i := range streams {
			streams[i] = open(t, a, "hole")
		}
		good := open(t, a, "good")
		wantRefused(t, good, CodeDialRefused, "connection refused")
		synctest.Wait() // all have had their turns
		if took := time.Since(began); took != 0 || dialing.Load() != maxTargetDials {
			t.Errorf("the good target answered after %v beside %d dials, want 0s and %d", took, dialing.Load(), maxTargetDials)
		}
		got := make(map[uint32]int)
		for _, st := range streams {
			got[st.WaitAccepted(t.Context()).(*RefusedError).Code]++
		}
		if want := map[uint32]int{CodeDialTimeout: maxTargetDials, CodeBusy: n - maxTargetDials}; !maps.Equal(got, want) {
			t.Errorf("refusals by code: %v, want %v", got, want)
		}
		if took := time.Since(began); took != dialTimeout {
			t.Errorf("the last one was told after %v, want %v", took, dialTimeout)
		}
	})
}

// Where many targets do not answer, another one waits for dialGrace at most: the oldest dials make room.
func TestSilentTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newSessions(t)
		serving(t, b, offeringBy(func(ctx context.Context, to Target) (conn, error) {
			if to.Host == "good" {
				return nil, errAnswered
			}
			return silent(ctx, to)
		}), Options{})
		began := time.Now()
		streams := make([]Stream, maxDials+1000)
		for i := range streams {
			streams[i] = open(t, a, "hole"+strconv.Itoa(i))
		}
		good := open(t, a, "good")
		wantRefused(t, good, CodeDialRefused, "connection refused")
		if took := time.Since(began); took != dialGrace {
			t.Errorf("the good target answered after %v, want %v", took, dialGrace)
		}
		got := make(map[uint32]int)
		for _, st := range streams {
			got[st.WaitAccepted(t.Context()).(*RefusedError).Code]++
		}
		if want := map[uint32]int{CodeDialTimeout: len(streams)}; !maps.Equal(got, want) {
			t.Errorf("refusals by code: %v, want %v", got, want)
		}
		if took := time.Since(began); took > maxTurnWait+dialTimeout {
			t.Errorf("the last one was told after %v, want %v at most", took, dialTimeout)
		}
	})
}

func open(t *testing.T, s Session, host string) Stream {
	t.Helper()
	st, err := s.Open(t.Context(), headerTo(Target{Host: host, Port: 1}).encode())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func wantRefused(t *testing.T, st Stream, code uint32, reason string) {
	t.Helper()
	var refused *RefusedError
	if err := st.WaitAccepted(t.Context()); !errors.As(err, &refused) || refused.Code != code || !strings.Contains(refused.Reason, reason) {
		t.Fatalf("%v, want a refusal with %d and %q", err, code, reason)
	}
}

// Random streams to random targets come and go: the bounds hold, and each stream that stays has its turn.
func TestDialsAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range int64(4) {
			r := rand.New(rand.NewSource(seed))
			d := newDials()
			var running, turned, displaced int
			inOne := make(map[string]int)
			var mu sync.Mutex
			var wg sync.WaitGroup
			const n = 3000
			for range n {
				name := strconv.Itoa(r.Intn(1 + r.Intn(40)))
				takes := time.Duration(r.Int63n(int64(20 * time.Second))) // longer than it may
				if r.Intn(2) == 0 {
					takes = 0
				}
				wg.Go(func() {
					_, err := d.do(t.Context(), name, &fakeStream{in: newHalf()}, func(ctx context.Context) (net.Conn, error) {
						mu.Lock()
						running, turned, inOne[name] = running+1, turned+1, inOne[name]+1
						if running > maxDials || inOne[name] > maxTargetDials {
							t.Errorf("seed %d: %d dials, %d to one target", seed, running, inOne[name])
						}
						mu.Unlock()
						sleep(ctx, takes)
						mu.Lock()
						running, inOne[name] = running-1, inOne[name]-1
						mu.Unlock()
						return nil, ctx.Err()
					})
					mu.Lock()
					defer mu.Unlock()
					if errors.Is(err, errNoTurn) {
						displaced++
					}
				})
				if r.Intn(10) == 0 {
					time.Sleep(time.Duration(r.Intn(100)) * time.Millisecond)
				}
			}
			wg.Wait()
			if turned+displaced != n || d.running.Len()+d.turns.Len()+len(d.targets) > 0 {
				t.Errorf("seed %d: %d had a turn and %d had none, of %d; left are %d, %d and %d", seed, turned, displaced, n, d.running.Len(), d.turns.Len(), len(d.targets))
			}
		}
	})
}

// The end of the context does not wait for dials, nor for room to dial.
func TestCancelWhileDialing(t *testing.T) {
	for _, n := range []int{1, maxTargetDials + 5} {
		a, b := newSessions(t)
		dialing := make(chan struct{}, n)
		stop := serving(t, b, offeringBy(func(ctx context.Context, to Target) (conn, error) {
			dialing <- struct{}{}
			return silent(ctx, to)
		}), Options{})
		for range n {
			open(t, a, "hole")
		}
		for range min(n, maxTargetDials) {
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
	if runtime.GOOS == "windows" {
		t.Skip("its numbers of errors differ")
	}
	connect := func(number syscall.Errno) error {
		return &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", number)}
	}
	for _, test := range []struct {
		err  error
		want string
		code uint32
	}{
		{&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true, Server: "192.0.2.53"}}, "no such host", CodeUnreachable},
		{&net.OpError{Op: "dial", Err: context.DeadlineExceeded}, "no answer within 10s", CodeDialTimeout},
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, "no answer within 10s", CodeDialTimeout},
		{connect(syscall.ETIMEDOUT), "connection timed out", CodeDialTimeout},
		{connect(syscall.ECONNREFUSED), "connection refused", CodeDialRefused},
		{connect(syscall.EHOSTUNREACH), "no route to host", CodeUnreachable},
		{connect(syscall.ENETUNREACH), "network is unreachable", CodeNoNetwork},
		{connect(syscall.ENOENT), "no such socket", CodeUnreachable},
		{errNoTurn, "no turn within 5s: too many connections without an answer are being made", CodeBusy},
		{errDisplaced, "no answer yet, and other connections wait for their turn", CodeDialTimeout},
		{errors.New("secret 192.0.2.1"), "dial failed", CodeUnreachable},
	} {
		if got, code := plain(test.err), dialCode(test.err); got != test.want || code != test.code {
			t.Errorf("%v: %q with %d, want %q with %d", test.err, got, code, test.want, test.code)
		}
	}
	if got := printable("a\x1b[31m\nb\xff" + strings.Repeat("é", 300)); !strings.HasPrefix(got, "a[31mbéé") || len(got) > maxReasonBytes {
		t.Errorf("printable: %q", got)
	}
}
