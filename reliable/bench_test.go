package reliable

import (
	"io"
	"sync"
	"testing"
	"time"

	kcp "github.com/xtaci/kcp-go/v5"
)

func BenchmarkPerfectLink(b *testing.B) {
	for name, streams := range map[string]int{"1 stream": 1, "8 streams": 8} {
		b.Run(name, func(b *testing.B) { transfer(b, new(wire), new(wire), streams) })
	}
}

// The link of a 100 Mbit/s path with 40 ms and 1 % loss each way, and a window that fits it.
func BenchmarkLossyLink(b *testing.B) {
	w := func() *wire {
		return &wire{delay: 20 * time.Millisecond, loss: 0.01, rate: 100e6 / 8, queue: 1 << 20, window: 1 << 20}
	}
	transfer(b, w(), w(), 1)
}

// transfer times 1 MiB an iteration, over all streams together.
func transfer(b *testing.B, ab, ba *wire, streams int) {
	x, y := newSessions(b, ab, ba)
	var wg sync.WaitGroup
	before := kcp.DefaultSnmp.Copy()
	b.SetBytes(1 << 20)
	b.ResetTimer()
	for i := range streams {
		from, to := newStreams(b, x, y)
		n := (b.N<<20 + i) / streams
		wg.Go(func() {
			p := make([]byte, 64<<10)
			for left := n; left > 0; {
				m, err := from.Write(p[:min(left, len(p))])
				if left -= m; err != nil {
					b.Errorf("write: %v", err)
					return
				}
			}
			_ = from.CloseWrite()
		})
		wg.Go(func() {
			if m, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{to}, make([]byte, 128<<10)); m != int64(n) || err != nil {
				b.Errorf("read %d bytes, %v; want %d", m, err, n)
			}
		})
	}
	wg.Wait()
	after := kcp.DefaultSnmp.Copy()
	segs := float64(after.OutSegs - before.OutSegs)
	b.ReportMetric(100*float64(after.RetransSegs-before.RetransSegs)/float64(b.N)/(float64(1<<20)/1176), "%resent")
	b.ReportMetric(100*float64(after.LostSegs-before.LostSegs)/segs, "%timeouts")
	b.ReportMetric(float64(ba.sent.Load())/float64(ab.sent.Load()), "acks/packet")
	if e := b.Elapsed().Seconds(); e > 0 {
		b.ReportMetric(float64(b.N<<23)/e/1e9, "Gbit/s")
	}
}
