package link_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/internal/link"
	"adit/internal/testtier"
)

// A udpSocket is a plain socket on loopback, one datagram to a call.
type udpSocket struct {
	c  *net.UDPConn
	wg sync.WaitGroup
}

func newUDP(t testing.TB, buffer int) *udpSocket {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if buffer > 0 {
		if err := c.SetReadBuffer(buffer); err != nil {
			t.Fatal(err)
		}
	}
	return &udpSocket{c: c}
}

func (s *udpSocket) addr() netip.AddrPort { return s.c.LocalAddr().(*net.UDPAddr).AddrPort() }

func (s *udpSocket) Send(b []byte, segment int, to netip.AddrPort) error {
	for len(b) > 0 {
		n := min(segment, len(b))
		if _, err := s.c.WriteToUDPAddrPort(b[:n], to); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (s *udpSocket) serve(m *link.Mux) {
	s.wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := s.c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if n > 0 {
				m.Deliver(buf[:n], n, from)
			}
		}
	})
}

func (s *udpSocket) close() {
	s.c.Close()
	s.wg.Wait()
}

// A testSocket is a udpSocket or one that batches.
type testSocket interface {
	link.Socket
	addr() netip.AddrPort
	serve(*link.Mux)
	close()
}

func key(b byte) [32]byte { return [32]byte{b} }

func mbit(bytes int, d time.Duration) float64 { return float64(bytes) * 8 / 1e6 / d.Seconds() }

// linkUDP links two real sockets.
func linkUDP(t testing.TB, sa, sb testSocket, buffer int) (a, b *link.Link, end func()) {
	t.Helper()
	ma, mb := link.NewMux(), link.NewMux()
	sa.serve(ma)
	sb.serve(mb)
	ia, err := ma.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	ib, err := mb.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	if a, err = ma.Open(link.Config{Socket: sa, LocalIndex: ia, RemoteIndex: ib, SendKey: key(1), RecvKey: key(2), AES: true, ReceiveBuffer: buffer}); err != nil {
		t.Fatal(err)
	}
	if b, err = mb.Open(link.Config{Socket: sb, LocalIndex: ib, RemoteIndex: ia, SendKey: key(2), RecvKey: key(1), AES: true, ReceiveBuffer: buffer}); err != nil {
		t.Fatal(err)
	}
	end = func() {
		a.Close("")
		b.Close("")
		sa.close()
		sb.close()
	}
	for _, p := range []struct {
		l  *link.Link
		to netip.AddrPort
	}{{a, sb.addr()}, {b, sa.addr()}} {
		if _, err := p.l.Probe(context.Background(), p.to); err != nil {
			t.Fatal(err)
		}
		p.l.Use(p.to)
	}
	return a, b, end
}

// pour sends n payloads as fast as the link takes them, and waits for most to arrive.
func pour(t testing.TB, a, b *link.Link, n int) (lost float64, took time.Duration) {
	var got atomic.Int64
	b.Receive(func([]byte) { got.Add(1) })
	defer b.Receive(nil)
	p := make([]byte, a.MTU())
	start := time.Now()
	for i := range n {
		for !a.Send(uint32(1+i%2), 0, p) {
			time.Sleep(50 * time.Microsecond) // the queue is full: there is no event for room
		}
	}
	last := start
	for {
		if a.Stats().Queue == 0 {
			if now := got.Load(); now == int64(n) || time.Since(last) > 100*time.Millisecond && last != start {
				break
			}
			if last == start {
				last = time.Now()
			}
		}
		time.Sleep(100 * time.Microsecond)
	}
	return 1 - float64(got.Load())/float64(n), time.Since(start)
}

// TestLoopback: a default socket buffer loses little. What it loses where the receiver gets no processor says
// nothing: the bound is for the long tier, and for the best of three runs.
func TestLoopback(t *testing.T) {
	n, most := 4000, 0.5
	if testtier.IsLong() {
		n, most = 40000, 0.02
	}
	least := 1.0
	for try := 0; try < 3 && least > most; try++ {
		a, b, end := linkUDP(t, newUDP(t, 0), newUDP(t, 0), 0)
		lost, took := pour(t, a, b, n)
		t.Logf("%.0f Mbit/s, %.3f %% lost, %+v", mbit(n*a.MTU(), took), 100*lost, a.Stats())
		end()
		least = min(least, lost)
	}
	if least > most {
		t.Errorf("%.2f %% lost to a default socket buffer", 100*least)
	}
}

func BenchmarkUDP(b *testing.B) {
	for _, buffer := range []int{0, 4 << 20} {
		b.Run(fmt.Sprintf("plain-%d", buffer), func(b *testing.B) {
			benchmark(b, newUDP(b, buffer), newUDP(b, buffer), buffer)
		})
	}
}

func benchmark(b *testing.B, sa, sb testSocket, buffer int) {
	x, y, end := linkUDP(b, sa, sb, buffer)
	defer end()
	pour(b, x, y, 20000)
	b.SetBytes(int64(x.MTU()))
	b.ReportAllocs()
	b.ResetTimer()
	lost, took := pour(b, x, y, b.N)
	b.StopTimer()
	b.ReportMetric(mbit(b.N*x.MTU(), took), "Mbit/s")
	b.ReportMetric(100*lost, "%lost")
}
