package peer

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"adit/internal/event"
	"adit/internal/leaktest"
	"adit/signal"
	"adit/signal/rendezvous"
)

func TestMain(m *testing.M) { leaktest.Main(m, "kcp-go/v5.NewTimedSched") }

// A side is one end under test: what it was told, and how its Dial ended.
type side struct {
	events chan event.Event
	done   chan struct{} // closed when Dial returned
	s      *Session
	err    error
}

func dial(ctx context.Context, cfg Config) *side {
	x := &side{events: make(chan event.Event, 256), done: make(chan struct{})}
	cfg.Loopback = true
	cfg.Events = func(e event.Event) {
		select {
		case x.events <- e:
		default: // far more than one meeting emits
		}
	}
	go func() {
		defer close(x.done)
		x.s, x.err = Dial(ctx, cfg)
	}()
	return x
}

// event waits for the next event of that name.
func (x *side) event(t *testing.T, name string) event.Event {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case e := <-x.events:
			if e.Name == name {
				return e
			}
		case <-limit:
			t.Fatalf("no event %q", name)
		}
	}
}

// session waits for Dial to succeed.
func (x *side) session(t *testing.T) *Session {
	t.Helper()
	select {
	case <-x.done:
	case <-time.After(30 * time.Second):
		t.Fatal("Dial does not return")
	}
	if x.err != nil {
		t.Fatalf("Dial: %v", x.err)
	}
	return x.s
}

// class waits for Dial to fail and returns the class of its error.
func (x *side) class(t *testing.T) Class {
	t.Helper()
	select {
	case <-x.done:
	case <-time.After(30 * time.Second):
		t.Fatal("Dial does not return")
	}
	if x.err == nil {
		x.s.Close()
		t.Fatal("Dial succeeded")
	}
	var e *Error
	if !errors.As(x.err, &e) {
		t.Fatalf("Dial: %v, want an *Error", x.err)
	}
	if e.Message == "" || e.Class != ClassOther && e.Hint == "" {
		t.Errorf("error %+v lacks a reason or advice", e)
	}
	return e.Class
}

func meetingPlace(t *testing.T) string {
	t.Helper()
	server := rendezvous.New(rendezvous.Config{})
	web := httptest.NewServer(server.Handler())
	t.Cleanup(func() {
		web.CloseClientConnections()
		web.Close()
		server.Close()
	})
	return web.URL
}

// exchange sends a line each way over a new stream.
func exchange(t *testing.T, from, to *Session) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	echoed := make(chan error, 1)
	go func() {
		s, err := to.Streams().Accept(ctx)
		if err == nil {
			if string(s.Header()) != "echo" {
				err = errors.New("header " + string(s.Header()))
			} else if err = s.Accept(); err == nil {
				if _, err = io.Copy(s, s); err == nil {
					err = s.Close()
				}
			}
		}
		echoed <- err
	}()
	s, err := from.Streams().Open(ctx, []byte("echo"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	text := strings.Repeat("level passage ", 1000)
	if _, err := io.WriteString(s, text); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s); err != nil || string(got) != text {
		t.Fatalf("got %d bytes back, %v; want %d", len(got), err, len(text))
	}
	if err := <-echoed; err != nil {
		t.Fatal(err)
	}
}

func TestCode(t *testing.T) {
	url := meetingPlace(t)
	a := dial(t.Context(), Config{Role: Exposer, Signal: url, Targets: []string{"localhost:22"}})
	b := dial(t.Context(), Config{Role: Connecter, Signal: url, Code: a.event(t, event.Code).Code})
	sb, sa := b.session(t), a.session(t)
	defer sa.Close()
	defer sb.Close()
	if got, want := sb.Targets(), []string{"localhost:22"}; !slices.Equal(got, want) {
		t.Errorf("targets %v, want %v", got, want)
	}
	exchange(t, sb, sa)
	exchange(t, sa, sb)
	up := b.event(t, event.Up)
	if up.Path != "direct" || up.Local == "" || up.Remote == "" || up.RTT <= 0 {
		t.Errorf("up event %+v lacks something", up)
	}
	sb.Close()
	if err := sa.Wait(); err != nil {
		t.Errorf("Wait after the peer closed: %v, want nil", err)
	}
	a.event(t, event.Closed)
	b.event(t, event.Closed)
}

// TestPacketBytes: loopback carries the largest packets, and that is found out within a second.
func TestPacketBytes(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the path's MTU is not probed everywhere")
	}
	url := meetingPlace(t)
	a := dial(t.Context(), Config{Role: Exposer, Signal: url})
	b := dial(t.Context(), Config{Role: Connecter, Signal: url, Code: a.event(t, event.Code).Code})
	sb, sa := b.session(t), a.session(t)
	defer sa.Close()
	defer sb.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); sa.PacketBytes() < 1424 || sb.PacketBytes() < 1424; <-tick.C {
		if time.Since(start) > time.Second {
			t.Fatalf("packets carry %d and %d bytes, want 1424 or more", sa.PacketBytes(), sb.PacketBytes())
		}
	}
}

func TestWrongCode(t *testing.T) {
	url := meetingPlace(t)
	a := dial(t.Context(), Config{Role: Exposer, Signal: url})
	code := a.event(t, event.Code).Code
	nameplate, _, _ := strings.Cut(code, "-")
	wrong := nameplate + "-abandon-ability-able"
	if code == wrong {
		wrong = nameplate + "-able-ability-abandon"
	}
	b := dial(t.Context(), Config{Role: Connecter, Signal: url, Code: wrong})
	if got := b.class(t); got != ClassAuth {
		t.Errorf("joiner: %v of class %d, want %d", b.err, got, ClassAuth)
	}
	if got := a.class(t); got != ClassAuth {
		t.Errorf("creator: %v of class %d, want %d", a.err, got, ClassAuth)
	}
	again := dial(t.Context(), Config{Role: Connecter, Signal: url, Code: code})
	if got := again.class(t); got != ClassSignal && got != ClassAuth {
		t.Errorf("the right code afterwards: %v of class %d, want it refused", again.err, got)
	}
}

func TestNoSuchCode(t *testing.T) {
	b := dial(t.Context(), Config{Role: Connecter, Signal: meetingPlace(t), Code: "9999-abandon-ability-able"})
	if got := b.class(t); got != ClassSignal {
		t.Errorf("%v of class %d, want %d", b.err, got, ClassSignal)
	}
}

func TestNoRendezvous(t *testing.T) {
	web := httptest.NewServer(nil)
	web.Close()
	a := dial(t.Context(), Config{Role: Exposer, Signal: web.URL, Timeout: 2 * time.Second})
	if got := a.class(t); got != ClassSignal && got != ClassTimeout {
		t.Errorf("%v of class %d, want %d", a.err, got, ClassSignal)
	}
}

// pasted makes two sides whose lines reach each other through pipes.
func pasted(t *testing.T, toExposer, toConnecter func(line string) string) (a, b *side) {
	t.Helper()
	offerOut, offerIn, answerOut, answerIn := linked(toConnecter, toExposer)
	a = dial(t.Context(), Config{Role: Exposer, Signal: "paste", Paste: signal.PasteConfig{In: answerOut, Out: offerIn}})
	b = dial(t.Context(), Config{Role: Connecter, Signal: "paste", Paste: signal.PasteConfig{In: offerOut, Out: answerIn}})
	t.Cleanup(func() { offerIn.Close(); answerIn.Close() })
	return a, b
}

type changing struct {
	*io.PipeWriter
	change func(string) string
}

func (c changing) Write(b []byte) (int, error) {
	if _, err := io.WriteString(c.PipeWriter, c.change(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

func linked(toConnecter, toExposer func(string) string) (offerOut io.Reader, offerIn io.WriteCloser, answerOut io.Reader, answerIn io.WriteCloser) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return r1, changing{w1, toConnecter}, r2, changing{w2, toExposer}
}

func same(s string) string { return s }

func TestPaste(t *testing.T) {
	a, b := pasted(t, same, same)
	sa, sb := a.session(t), b.session(t)
	defer sa.Close()
	defer sb.Close()
	exchange(t, sb, sa)
	wa, wb := a.event(t, event.Words).Words, b.event(t, event.Words).Words
	if len(wa) != 4 || !slices.Equal(wa, wb) {
		t.Errorf("verification words %v and %v, want four equal ones", wa, wb)
	}
}

func TestPasteOwnToken(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	a := dial(t.Context(), Config{Role: Exposer, Signal: "paste", Paste: signal.PasteConfig{In: r, Out: w}})
	if got := a.class(t); got != ClassSignal {
		t.Errorf("%v of class %d, want %d", a.err, got, ClassSignal)
	}
}

func TestTimeout(t *testing.T) {
	a := dial(t.Context(), Config{Role: Exposer, Signal: meetingPlace(t), Timeout: 300 * time.Millisecond})
	if got := a.class(t); got != ClassTimeout {
		t.Errorf("%v of class %d, want %d", a.err, got, ClassTimeout)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a := dial(ctx, Config{Role: Exposer, Signal: meetingPlace(t)})
	a.event(t, event.Code)
	cancel()
	<-a.done
	if !errors.Is(a.err, context.Canceled) {
		t.Errorf("Dial: %v, want context.Canceled", a.err)
	}
}
