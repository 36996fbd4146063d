package punch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// datagrams builds n datagrams of size bytes, the last of last bytes, numbered from first. The first
// byte is none of STUN's.
func datagrams(first, n, size, last int) []byte {
	var out []byte
	for i := range n {
		p := bytes.Repeat([]byte{0x40 | byte(i&63)}, size)
		if i == n-1 {
			p = p[:last]
		}
		binary.BigEndian.PutUint32(p[1:], uint32(first+i))
		out = append(out, p...)
	}
	return out
}

// collect makes h hand over copies of single datagrams.
func collect(h *Host, room int) <-chan []byte {
	c := make(chan []byte, room)
	h.SetHandler(func(b []byte, segment int, _ netip.AddrPort) {
		for len(b) > 0 {
			n := min(segment, len(b))
			select {
			case c <- slices.Clone(b[:n]):
			default:
			}
			b = b[n:]
		}
	})
	return c
}

// send sends n datagrams from one host to the other and checks that they arrive, in order.
func send(t *testing.T, a, b *Host, n, segment, last int) {
	t.Helper()
	got := collect(b, n)
	sent := datagrams(1, n, segment, last)
	if err := a.Send(sent, segment, loopback(b)); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		want := sent[i*segment : min((i+1)*segment, len(sent))]
		select {
		case p := <-got:
			if !bytes.Equal(p, want) {
				t.Fatalf("datagram %d: got %d bytes %x…, want %d bytes %x…", i, len(p), p[:5], len(want), want[:5])
			}
		case <-time.After(patience):
			t.Fatalf("datagram %d of %d is missing", i, n)
		}
	}
}

func TestBatches(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name             string
		n, segment, last int
	}{
		{"one", 1, 1200, 1200},
		{"odd last", 20, 1200, 7},
		{"equal", 40, 500, 500},
		{"more than one run", 200, 1200, 9},
		{"more than 64 tiny ones", 150, 20, 11},
		{"segments larger than a run", 3, 60000, 50000},
	} {
		t.Run(test.name, func(t *testing.T) {
			send(t, listen(t, Config{}), listen(t, Config{}), test.n, test.segment, test.last)
		})
	}
}

func TestBothFamilies(t *testing.T) {
	t.Parallel()
	a, b := listen(t, Config{}), listen(t, Config{})
	if a.socks[1] == nil {
		t.Skip("no IPv6 here")
	}
	if a.socks[0] != nil && a.socks[0].port != a.socks[1].port {
		t.Logf("ports differ: %d and %d", a.socks[0].port, a.socks[1].port)
	}
	from := make(chan netip.AddrPort, 1)
	b.SetHandler(func(_ []byte, _ int, f netip.AddrPort) { from <- f })
	for _, ip := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(b.Port()))
		if err := a.Send([]byte("x"), 1, to); err != nil {
			t.Errorf("send to %v: %v", to, err)
			continue
		}
		select {
		case f := <-from:
			if want := netip.AddrPortFrom(to.Addr().Unmap(), uint16(a.Port())); f != want {
				t.Errorf("got from %v, want %v", f, want)
			}
		case <-time.After(patience):
			t.Errorf("nothing came by way of %v", to)
		}
	}
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	h := listen(t, Config{})
	if _, err := Listen(Config{Port: h.Port()}); !errors.Is(err, ErrPortInUse) {
		t.Errorf("got %v, want %v", err, ErrPortInUse)
	}
	if _, err := Listen(Config{Port: 70000}); err == nil {
		t.Error("got no error for port 70000")
	}
	h.Close()
	again, err := Listen(Config{Port: h.Port()})
	if err != nil {
		t.Fatalf("port is free again: %v", err)
	}
	again.Close()
}

func TestReceiveBuffer(t *testing.T) {
	t.Parallel()
	h := listen(t, Config{})
	if n := h.ReceiveBuffer(); n < leastBuffer || n > 2*bufferBytes {
		t.Errorf("got %d bytes", n)
	}
	least := 2 * bufferBytes
	for _, s := range h.socks {
		if s != nil {
			least = min(least, s.buffer)
		}
	}
	if h.ReceiveBuffer() != least {
		t.Errorf("got %d bytes, the smaller socket has %d", h.ReceiveBuffer(), least)
	}
}

func TestSendErrors(t *testing.T) {
	t.Parallel()
	h := listen(t, Config{})
	if err := h.Send([]byte("x"), 0, loopback(h)); err == nil {
		t.Error("got no error for segments of 0 bytes")
	}
	if err := h.Send([]byte("x"), 1, netip.AddrPort{}); !errors.Is(err, ErrAddress) {
		t.Errorf("got %v, want %v", err, ErrAddress)
	}
	if err := h.Send(nil, 1, loopback(h)); err != nil {
		t.Errorf("nothing to send: %v", err)
	}
	for range 2 {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := h.Send([]byte("x"), 1, loopback(h)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want %v", err, net.ErrClosed)
	}
	if _, err := h.NewAgent(AgentConfig{Local: CredentialsFromSeed(seed(1))}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want %v", err, net.ErrClosed)
	}
	if err := h.Gather(t.Context(), func(Candidate) {}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want %v", err, net.ErrClosed)
	}
}

// A peer that is gone answers with ICMP; reading and sending go on.
func TestRefusedPort(t *testing.T) {
	t.Parallel()
	a, b, gone := listen(t, Config{}), listen(t, Config{}), listen(t, Config{})
	nobody := loopback(gone)
	gone.Close()
	got := collect(b, 64)
	back := collect(a, 64)
	for range 20 {
		_ = a.Send([]byte("hello"), 5, nobody) // some systems tell of the earlier one
		_ = a.Send([]byte("hello"), 5, loopback(b))
	}
	<-got
	if err := b.Send([]byte("back"), 4, loopback(a)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-back:
	case <-time.After(patience):
		t.Error("nothing is read any more")
	}
}

func TestSendAllocates(t *testing.T) {
	a, b := listen(t, Config{}), listen(t, Config{})
	var bytes atomic.Int64
	b.SetHandler(func(p []byte, _ int, _ netip.AddrPort) { bytes.Add(int64(len(p))) })
	for _, to := range []netip.AddrPort{loopback(b), netip.AddrPortFrom(netip.IPv6Loopback(), uint16(b.Port()))} {
		if a.socks[family(to.Addr())] == nil {
			continue
		}
		for _, n := range []int{1, 2, 40, 100} {
			p := datagrams(0, n, 1200, 700)
			send := func() {
				if err := a.Send(p, 1200, to); err != nil {
					t.Fatal(err)
				}
			}
			send()
			if got := testing.AllocsPerRun(200, send); got > 0 && runtime.GOOS == "linux" && !raceEnabled {
				t.Errorf("%d datagrams to %v: got %v allocations, want 0 (receiving included)", n, to, got)
			}
		}
	}
	if bytes.Load() == 0 {
		t.Error("nothing arrived")
	}
}

func BenchmarkSend(b *testing.B) {
	for _, n := range []int{1, 8, 40} {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			from, to := listen(b, Config{}), listen(b, Config{})
			var received atomic.Int64
			to.SetHandler(func(p []byte, segment int, _ netip.AddrPort) { received.Add(int64(len(p) / segment)) })
			p, dst := datagrams(0, n, 1400, 1400), loopback(to)
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				if err := from.Send(p, 1400, dst); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(100*float64(received.Load())/float64(b.N*n), "%received")
		})
	}
}

// BenchmarkPing is one datagram there and one back, one at a time.
func BenchmarkPing(b *testing.B) {
	x, y := listen(b, Config{}), listen(b, Config{})
	back := make(chan struct{}, 1)
	y.SetHandler(func(p []byte, segment int, from netip.AddrPort) { _ = y.Send(p, segment, from) })
	x.SetHandler(func([]byte, int, netip.AddrPort) { back <- struct{}{} })
	p, dst := datagrams(0, 1, 1200, 1200), loopback(y)
	b.ReportAllocs()
	for b.Loop() {
		if err := x.Send(p, len(p), dst); err != nil {
			b.Fatal(err)
		}
		<-back
	}
}
