package netlab

import (
	"net"
	"testing"
	"time"

	"adit/internal/testtier"
)

// TestLink holds an emulated link to its figures; in the short tier to what does not depend on time.
func TestLink(t *testing.T) {
	t.Run("delay", func(t *testing.T) {
		testtier.Long(t)
		l := New(t)
		const delay = 25 * time.Millisecond
		left, right := l.Link(LinkConfig{Delay: delay})
		if rtt := roundTrip(t, open(t, left, 1), open(t, right, 1)); rtt < 2*delay || rtt > 2*delay+10*time.Millisecond {
			t.Errorf("round trip %v, want %v", rtt, 2*delay)
		}
	})
	t.Run("rate", func(t *testing.T) {
		testtier.Long(t)
		l := New(t)
		const packets, size, rate = 400, 1000, 10e6
		left, right := l.Link(LinkConfig{RateBits: rate, QueueBytes: 1 << 20})
		came, took := blast(t, left, right, packets, size)
		if came != packets {
			t.Errorf("%d packets came, want %d; link: %+v", came, packets, left.LinkStats())
		}
		bits := float64(came*(size+28)*8) / took.Seconds()
		t.Logf("%.2f Mbit/s", bits/1e6)
		if bits < 0.9*rate || bits > 1.01*rate { // a busy machine delivers late, and never early
			t.Errorf("rate %.0f bit/s, want %.0f", bits, rate)
		}
	})
	t.Run("token bucket", func(t *testing.T) {
		testtier.Long(t)
		l := New(t)
		const packets, size, rate = 400, 1000, 20e6
		left, right := l.Veth(rate)
		// What the sender's socket cannot hold waits in its write, so that nothing is dropped.
		came, took := blast(t, left, right, packets, size)
		bits := float64(came*(size+28)*8) / took.Seconds()
		t.Logf("%.2f Mbit/s", bits/1e6)
		if bits < 0.5*rate || bits > 2*rate { // a bucket of 128 KiB is a third of all this
			t.Errorf("rate %.0f bit/s, want about %.0f", bits, float64(rate))
		}
	})
	t.Run("queue", func(t *testing.T) {
		testtier.Long(t)
		l := New(t)
		const packets, size, queue = 400, 1000, 100 * 1028
		left, right := l.Link(LinkConfig{RateBits: 2e6, QueueBytes: queue})
		came, _ := blast(t, left, right, packets, size)
		// What does not fit waits nowhere; a few leave while the others arrive.
		if came < 95 || came > 150 {
			t.Errorf("%d packets came of %d into a queue for 100", came, packets)
		}
		if s := left.LinkStats(); s.QueueDropped != int64(packets-came) || s.Lost != 0 {
			t.Errorf("counters %+v, want %d queue drops", s, packets-came)
		}
	})
	t.Run("loss", func(t *testing.T) {
		l := New(t)
		const packets, loss = 5000, 0.1
		left, right := l.Link(LinkConfig{Loss: loss, RateBits: 200e6, QueueBytes: 16 << 20})
		came, _ := blast(t, left, right, packets, 200)
		if rate := 1 - float64(came)/packets; rate < 0.08 || rate > 0.12 {
			t.Errorf("lost %.3f, want %.3f", rate, loss)
		}
		s := left.LinkStats()
		if s.Packets != packets || s.Lost != int64(packets-came) || s.Failed != 0 {
			t.Errorf("counters %+v, want %d packets and %d lost", s, packets, packets-came)
		}
	})
}

// blast sends packets as fast as it can, and says how many came and how long it took from the first send
// to the last arrival.
func blast(t *testing.T, from, to *Host, packets, size int) (came int, took time.Duration) {
	t.Helper()
	a, b := open(t, from, 1), open(t, to, 1)
	_ = b.PacketConn.(*net.UDPConn).SetReadBuffer(4 << 20)
	sent, first, last := make(chan error, 1), time.Now(), time.Time{}
	go func() {
		p := make([]byte, size)
		for range packets {
			if _, err := a.WriteTo(p, b.LocalAddr()); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	buf := make([]byte, 2*size)
	for came < packets {
		_ = b.SetReadDeadline(time.Now().Add(2 * never))
		if _, _, err := b.ReadFrom(buf); err != nil {
			break
		}
		last = time.Now()
		came++
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	return came, last.Sub(first)
}
