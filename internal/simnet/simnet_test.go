package simnet

import (
	"encoding/binary"
	"math"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

var (
	addrA = netip.MustParseAddrPort("192.0.2.1:1000")
	addrB = netip.MustParseAddrPort("198.51.100.2:2000")
	addrC = netip.MustParseAddrPort("198.51.100.3:3000")
)

// An arrival is a datagram that came.
type arrival struct {
	at   time.Duration // since the start
	n    uint32        // its first four bytes
	size int
	from netip.AddrPort
}

// send sends count datagrams of size bytes, numbered, one each gap, through a pipe, and returns what came
// and what was counted.
func send(t *testing.T, c Config, count, size int, gap time.Duration) (came []arrival, counts Counts) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		defer n.Close()
		p := n.Pipe(c)
		s := n.Socket(addrA, p, nil)
		start := time.Now()
		n.Socket(addrB, p, func(b []byte, segment int, from netip.AddrPort) {
			for len(b) > 0 {
				d := b[:min(segment, len(b))]
				b = b[len(d):]
				came = append(came, arrival{time.Since(start), binary.BigEndian.Uint32(d), len(d), from})
			}
		})
		b := make([]byte, size)
		for i := range count {
			binary.BigEndian.PutUint32(b, uint32(i))
			if err := s.Send(b, size, addrB); err != nil {
				t.Fatal(err)
			}
			if gap > 0 {
				time.Sleep(gap)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		counts = p.Counts()
	})
	return came, counts
}

func reordered(came []arrival) (n int) {
	for i := range came[1:] {
		if came[i+1].n < came[i].n {
			n++
		}
	}
	return n
}

func TestPlain(t *testing.T) {
	came, c := send(t, Config{}, 10, 100, time.Millisecond)
	if len(came) != 10 || c.Delivered != 10 || c.Sent != 10 || c.SentBytes != 10*(100+HeaderBytes) {
		t.Fatalf("got %d datagrams, counts %+v, want 10", len(came), c.Sent)
	}
	for i, a := range came {
		if want := (arrival{time.Duration(i) * time.Millisecond, uint32(i), 100, addrA}); a != want {
			t.Errorf("got %+v, want %+v", a, want)
		}
	}
}

func TestRateAndQueue(t *testing.T) {
	// 1,000 bytes with headers take 10 ms each, and ten of them fit the queue.
	c := Config{Rate: 100e3, Queue: 10e3, Delay: 50 * time.Millisecond}
	came, counts := send(t, c, 30, 1000-HeaderBytes, 0)
	if len(came) != 10 || counts.Dropped != 20 || counts.Lost != 0 {
		t.Fatalf("got %d, dropped %d, lost %d, want 10, 20, 0", len(came), counts.Dropped, counts.Lost)
	}
	for i, a := range came {
		if want := time.Duration(i+1)*10*time.Millisecond + c.Delay; a.at != want {
			t.Errorf("datagram %d came after %v, want %v", i, a.at, want)
		}
	}
	if got := counts.Waits.Quantile(1); got < 90*time.Millisecond || got > 96*time.Millisecond {
		t.Errorf("longest wait %v, want 90 ms and at most 6 %% more", got)
	}
	came, _ = send(t, c, 1000, 1000-HeaderBytes, 10*time.Millisecond)
	if len(came) != 1000 {
		t.Errorf("at its rate %d of 1000 came", len(came))
	}
	if came, _ = send(t, Config{Rate: 100e3}, 5, 5000, time.Second); len(came) != 5 {
		t.Errorf("through an empty queue without room %d of 5 came", len(came))
	}
}

func TestLoss(t *testing.T) {
	const n = 20000
	for _, c := range []struct {
		name  string
		conf  Config
		share float64
	}{
		{"random", Config{Loss: 0.05}, 0.05},
		{"bursts", Config{Burst: Burst{Enter: 0.01, Leave: 0.25, Loss: 1}}, 0.01 / 0.26},
		{"down", Config{Down: true}, 1},
		{"large", Config{MTU: 100 + HeaderBytes - 1}, 1},
		{"not too large", Config{MTU: 100 + HeaderBytes}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			came, counts := send(t, c.conf, n, 100, 0)
			if len(came)+int(counts.Lost) != n {
				t.Errorf("%d came and %d were lost, want %d in all", len(came), counts.Lost, n)
			}
			if got := float64(counts.Lost) / n; math.Abs(got-c.share) > 0.1*c.share {
				t.Errorf("lost %.4f, want %.4f", got, c.share)
			}
		})
	}
	came, counts := send(t, Config{Burst: Burst{Enter: 0.01, Leave: 0.25, Loss: 1}}, n, 100, 0)
	holes := 0
	for i := range came[1:] {
		if came[i+1].n != came[i].n+1 {
			holes++
		}
	}
	if mean := float64(counts.Lost) / float64(holes); mean < 3.5 || mean > 4.5 {
		t.Errorf("%.2f lost in a row, want 4", mean)
	}
}

func TestJitter(t *testing.T) {
	c := Config{Delay: 10 * time.Millisecond, Jitter: 10 * time.Millisecond}
	came, _ := send(t, c, 1000, 100, time.Millisecond)
	if len(came) != 1000 || reordered(came) < 200 {
		t.Errorf("%d came, %d reordered, want 1000 and many", len(came), reordered(came))
	}
	for _, a := range came {
		if d := a.at - time.Duration(a.n)*time.Millisecond; d < c.Delay || d > c.Delay+c.Jitter {
			t.Fatalf("datagram %d took %v", a.n, d)
		}
	}
	c.Ordered = true
	if came, _ = send(t, c, 1000, 100, time.Millisecond); len(came) != 1000 || reordered(came) != 0 {
		t.Errorf("%d came, %d reordered, want 1000 and none", len(came), reordered(came))
	}
}

func TestDouble(t *testing.T) {
	came, counts := send(t, Config{Double: 0.1}, 10000, 100, 0)
	if d := int(counts.Doubled); d < 900 || d > 1100 || len(came) != 10000+d {
		t.Errorf("%d came, %d doubled, want 10000 and a tenth", len(came), d)
	}
}

func TestGrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		defer n.Close()
		p := n.Pipe(Config{Rate: 1e6, Queue: 1 << 20, Grain: 10 * time.Millisecond})
		s := n.Socket(addrA, p, nil)
		var runs []int
		n.Socket(addrB, p, func(b []byte, segment int, _ netip.AddrPort) { runs = append(runs, (len(b)+segment-1)/segment) })
		s.Send(make([]byte, 20*(1000-HeaderBytes)-100), 1000-HeaderBytes, addrB) // one each millisecond
		time.Sleep(time.Second)
		synctest.Wait()
		if len(runs) < 2 || len(runs) > 3 {
			t.Errorf("came in runs of %v, want two or three", runs)
		}
	})
}

// Two that share a pipe share its rate; what one sends arrives at the other only.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		defer n.Close()
		p := n.Pipe(Config{Rate: 100e3, Queue: 5e3})
		var b, c int
		a := n.Socket(addrA, p, nil)
		sb := n.Socket(addrB, p, func([]byte, int, netip.AddrPort) { b++ })
		n.Socket(addrC, p, func([]byte, int, netip.AddrPort) { c++ })
		d := make([]byte, 1000-HeaderBytes)
		for range 1000 {
			a.Send(d, len(d), addrB)
			sb.Send(d, len(d), addrC)
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if sum := b + c; sum < 500 || sum > 506 || b == 0 || c == 0 {
			t.Errorf("%d and %d came in 5 s, want 100/s together", b, c)
		}
		if counts := p.Counts(); counts.Sent != 2000 || counts.Dropped+counts.Delivered != 2000 {
			t.Errorf("sent %d, dropped %d, delivered %d", counts.Sent, counts.Dropped, counts.Delivered)
		}
	})
}

func TestChangeTapInjectClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		p := n.Pipe(Config{Delay: time.Second})
		s := n.Socket(addrA, p, nil)
		var from []netip.AddrPort
		n.Socket(addrB, p, func(_ []byte, _ int, f netip.AddrPort) { from = append(from, f) })
		seen := 0
		p.Tap(func([]byte, netip.AddrPort, netip.AddrPort) { seen++ })
		p.Inject([]byte("x"), addrC, addrB)
		s.Send([]byte("x"), 1, addrB)
		p.Change(func(c *Config) { c.Down = true })
		before := p.Counts()
		s.Send([]byte("x"), 1, addrB)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(from) != 2 || from[0] != addrC || from[1] != addrA || seen != 2 {
			t.Errorf("came from %v, %d tapped, want C, A and 2", from, seen)
		}
		if d := p.Counts().Sub(before); d.Sent != 1 || d.Lost != 1 || d.Delivered != 2 {
			t.Errorf("sent %d, lost %d, delivered %d, want 1, 1, 2", d.Sent, d.Lost, d.Delivered)
		}
		n.Close()
		n.Close()
		if err := s.Send([]byte("x"), 1, addrB); err != net.ErrClosed {
			t.Errorf("got %v, want %v", err, net.ErrClosed)
		}
	})
}

func TestSeed(t *testing.T) {
	c := Config{Loss: 0.3, Jitter: 50 * time.Millisecond, Double: 0.1}
	a, _ := send(t, c, 500, 100, time.Millisecond)
	b, _ := send(t, c, 500, 100, time.Millisecond)
	if len(a) != len(b) {
		t.Fatalf("%d and %d came with the same seed", len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			t.Fatalf("datagram %d: %+v and %+v with the same seed", i, a[i], b[i])
		}
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	n := New(1)
	defer n.Close()
	p := n.Pipe(Config{})
	s := n.Socket(addrA, p, nil)
	came := make(chan struct{}, 1)
	n.Socket(addrB, p, func([]byte, int, netip.AddrPort) { came <- struct{}{} })
	b := make([]byte, 1200)
	if got := testing.AllocsPerRun(1000, func() {
		s.Send(b, len(b), addrB)
		<-came
	}); got >= 1 {
		t.Errorf("%v allocations a datagram", got)
	}
}

func TestHistogram(t *testing.T) {
	var h Histogram
	if h.Quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	for i := range 1000 {
		h.Add(time.Duration(i+1) * time.Millisecond)
	}
	for _, q := range []float64{0, 0.01, 0.5, 0.99, 1} {
		want := min(float64(int(q*1000)+1), 1000) * float64(time.Millisecond)
		if got := float64(h.Quantile(q)); got < want || got > want*1.0626 {
			t.Errorf("quantile %v: got %v, want %v to 6 %% more", q, time.Duration(got), time.Duration(want))
		}
	}
	h.Add(math.MaxInt64)
	h.Add(-1)
	if h.N() != 1002 || h.Quantile(1) != math.MaxInt64 || h.Quantile(0) != 0 {
		t.Errorf("got %d, %v to %v", h.N(), h.Quantile(0), h.Quantile(1))
	}
	for i := range buckets {
		if bucket(most(i)) != i || i > 0 && bucket(most(i-1)+1) != i {
			t.Fatalf("bucket %d ends at %d", i, most(i))
		}
	}
}
