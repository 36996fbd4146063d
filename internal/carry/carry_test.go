package carry

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"adit/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const patience = 10 * time.Second

// serve runs a hub at an HTTP server, over TLS if secure, and returns what dials its sides.
func serve(t testing.TB, limits Limits, secure bool) (hub *Hub, dial func(id string, side int) *Conn, url string, client *http.Client) {
	t.Helper()
	hub = NewHub(limits)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var id string
		var side int
		if _, err := fmt.Sscanf(r.URL.Path, "/%1s/%d", &id, &side); err != nil {
			http.NotFound(w, r)
			return
		}
		hub.Serve(w, r, id, side, netip.MustParseAddr("192.0.2.1"))
	}))
	if secure {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(func() {
		hub.Close()
		srv.Close()
	})
	client = srv.Client()
	t.Cleanup(client.CloseIdleConnections)
	return hub, func(id string, side int) *Conn {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := Dial(ctx, client, fmt.Sprintf("%s/%s/%d", srv.URL, id, side), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}, srv.URL, client
}

func receiver(c *Conn) <-chan string {
	ch := make(chan string, 4096)
	c.SetHandler(func(b []byte, _ int, _ netip.AddrPort) {
		select {
		case ch <- string(b):
		default:
		}
	})
	return ch
}

func expect(t testing.TB, ch <-chan string, want string) {
	t.Helper()
	select {
	case got := <-ch:
		if got != want {
			t.Fatalf("got %.40q of %d bytes, want %.40q", got, len(got), want)
		}
	case <-time.After(patience):
		t.Fatalf("%.40q did not arrive", want)
	}
}

// until sends until the other side has it: a side may be there before the hub knows it.
func until(t testing.TB, c *Conn, ch <-chan string, text string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	over := time.After(patience)
	for {
		if err := c.Send([]byte(text), len(text), netip.AddrPort{}); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-ch:
			if got == text {
				return
			}
		case <-tick.C:
		case <-over:
			t.Fatalf("%q did not arrive", text)
		}
	}
}

func TestPair(t *testing.T) {
	for _, secure := range []bool{false, true} {
		_, dial, _, _ := serve(t, Limits{}, secure)
		a, b, other := dial("x", 0), dial("x", 1), dial("y", 1)
		fromA, fromB, stray := receiver(b), receiver(a), receiver(other)
		until(t, a, fromA, "first")
		long := strings.Repeat("z", 1472)
		if err := a.Send([]byte("aaaabbbbcc"), 4, netip.AddrPort{}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"aaaa", "bbbb", "cc"} {
			got := <-fromA
			for got == "first" {
				got = <-fromA
			}
			if got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
		if err := b.Send([]byte(strings.Repeat(long, 60)), len(long), netip.AddrPort{}); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			expect(t, fromB, long)
		}
		select {
		case s := <-stray:
			t.Errorf("another pair got %q", s)
		default:
		}
	}
}

// A side that dials again takes its own place.
func TestAgain(t *testing.T) {
	_, dial, _, _ := serve(t, Limits{}, false)
	a, old := dial("x", 0), dial("x", 1)
	until(t, a, receiver(old), "one")
	fresh := dial("x", 1)
	until(t, a, receiver(fresh), "two")
	select {
	case <-old.Done():
		if old.Err() == nil {
			t.Error("no reason")
		}
	case <-time.After(patience):
		t.Error("the old connection lives")
	}
}

func TestRefusals(t *testing.T) {
	hub, dial, url, client := serve(t, Limits{Total: 1}, false)
	dial("x", 0)
	if _, err := Dial(t.Context(), client, url+"/x/1", nil); !errors.Is(err, ErrRefused) {
		t.Errorf("one too many: %v, want ErrRefused", err)
	}
	if _, err := Dial(t.Context(), client, url+"/nowhere", nil); !errors.Is(err, ErrRefused) {
		t.Errorf("no hub: %v, want ErrRefused", err)
	}
	resp, err := client.Get(url + "/x/1")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("a plain request: status %d", resp.StatusCode)
	}
	hub.Close()
	if _, err := Dial(t.Context(), client, url+"/x/1", nil); !errors.Is(err, ErrRefused) {
		t.Errorf("a closed hub: %v, want ErrRefused", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, client, url+"/x/1", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context: %v", err)
	}
}

// What is above the rate is dropped, and a reader that stops costs the hub a bounded queue.
func TestLimits(t *testing.T) {
	_, dial, _, _ := serve(t, Limits{Rate: 100_000}, false)
	a, b := dial("x", 0), dial("x", 1)
	got := receiver(b)
	until(t, a, got, "first")
	p := bytes.Repeat([]byte("x"), 30*1000)
	for range 100 { // 3 MB; the bucket holds 64 KiB
		_ = a.Send(p, 1000, netip.AddrPort{})
	}
	until(t, a, got, "last")
	if n := len(got); n > 1000 {
		t.Errorf("%d kB passed a limit of 100 kB/s", n)
	}
}

func TestIdle(t *testing.T) {
	_, dial, _, _ := serve(t, Limits{Idle: 50 * time.Millisecond}, false)
	a := dial("x", 0)
	select {
	case <-a.Done():
	case <-time.After(patience):
		t.Error("an idle connection stays")
	}
	if err := a.Send([]byte("x"), 1, netip.AddrPort{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send afterwards: %v", err)
	}
}

func TestFrames(t *testing.T) {
	for _, mask := range []bool{false, true} {
		for _, n := range []int{0, 1, 125, 126, 1000, maxMessage} {
			p := bytes.Repeat([]byte{0x5a}, n)
			op, got, err := readFrame(bufio.NewReader(bytes.NewReader(appendFrame(nil, opBinary, p, mask))), make([]byte, maxMessage), mask)
			if err != nil || op != opBinary || !bytes.Equal(got, p) {
				t.Errorf("%d bytes, masked %v: %d bytes, %v", n, mask, len(got), err)
			}
			if _, _, err := readFrame(bufio.NewReader(bytes.NewReader(appendFrame(nil, opBinary, p, mask))), make([]byte, maxMessage), !mask); err != errFrame {
				t.Errorf("the wrong side's frame: %v", err)
			}
		}
	}
	// RFC 6455 §1.3
	if got := acceptKey("dGhlIHNhbXBsZSBub25jZQ=="); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Errorf("accept key %s", got)
	}
	// §5.7: a masked "Hello"
	_, p, err := readFrame(bufio.NewReader(bytes.NewReader([]byte{0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58})), make([]byte, 10), true)
	if err != nil || string(p) != "Hello" {
		t.Errorf("%q, %v", p, err)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(appendFrame(nil, opBinary, appendDatagrams(nil, []byte("hello"), 3), true))
	f.Add([]byte{0x82, 0x7e, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		w := newWriter(struct {
			io.Writer
			io.Closer
		}{io.Discard, io.NopCloser(nil)}, false)
		_ = read(bufio.NewReader(bytes.NewReader(b)), w, true, func(m []byte) {
			datagrams(m, func(p []byte) {
				if len(p) == 0 || len(p) > maxDatagram {
					t.Errorf("a datagram of %d bytes", len(p))
				}
			})
		})
		w.close()
	})
}
