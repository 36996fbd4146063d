// In package reliable: this file looks at the governor's list, to know when a session is idle.

package reliable

import (
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kcp "github.com/xtaci/kcp-go/v5"
)

func BenchmarkThroughput(b *testing.B) {
	for _, c := range []struct {
		name    string
		streams int
		wire    *wire
	}{
		{"1 stream", 1, new(wire)},
		{"8 streams", 8, new(wire)},
		// A path of 100 Mbit/s and 40 ms that loses 1 % each way, and a window that fits it.
		{"lossy", 1, &wire{delay: 20 * time.Millisecond, loss: 0.01, rate: 100e6 / 8, queue: 1 << 20, window: 1 << 20}},
		// A gigabit a second over 200 ms.
		{"long", 1, &wire{delay: 100 * time.Millisecond, rate: 1e9 / 8, window: 30 << 20}},
	} {
		b.Run(c.name, func(b *testing.B) {
			transfer(b, c.wire.clone(), c.wire.clone(), c.streams)
		})
	}
}

// transfer times 1 MiB an iteration, over all streams together.
func transfer(b *testing.B, ab, ba *wire, streams int) {
	x, y := newSessions(b, ab, ba)
	var wg sync.WaitGroup
	before := kcp.DefaultSnmp.Copy()
	b.SetBytes(1 << 20)
	b.ReportAllocs()
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
	b.ReportMetric(100*float64(after.RetransSegs-before.RetransSegs)/segs, "%resent")
	b.ReportMetric(float64(ba.sent.Load())/float64(ab.sent.Load()), "acks/packet")
	if e := b.Elapsed().Seconds(); e > 0 {
		b.ReportMetric(float64(b.N<<23)/e/1e9, "Gbit/s")
	}
}

// Streams that carry 64 bytes each way, one after the other in each of eight goroutines.
func BenchmarkOpenClose(b *testing.B) {
	x, y := newSessions(b, new(wire), new(wire))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			st, err := y.Accept(b.Context())
			if err != nil {
				return
			}
			_ = st.Accept()
			go func() {
				if _, err := io.Copy(struct{ io.Writer }{st}, struct{ io.Reader }{st}); err == nil {
					_ = st.Close()
				}
			}()
		}
	})
	b.ReportAllocs()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			p := make([]byte, 64)
			for left.Add(-1) >= 0 {
				st, err := x.Open(b.Context(), p[:16])
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = st.Write(p)
				_ = st.CloseWrite()
				if n, err := io.Copy(io.Discard, struct{ io.Reader }{st}); n != int64(len(p)) || err != nil {
					b.Errorf("got %d bytes and %v, want %d", n, err, len(p))
				}
				_ = st.Close()
			}
		})
	}
	work.Wait()
	b.StopTimer()
	if e := b.Elapsed().Seconds(); e > 0 {
		b.ReportMetric(float64(b.N)/e, "streams/s")
	}
	y.CloseWithError(nil)
	wg.Wait()
}

// A keystroke and its echo.
func BenchmarkEcho(b *testing.B) {
	x, y := newSessions(b, new(wire), new(wire))
	from, to := newStreams(b, x, y)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{to}) })
	p := make([]byte, 64)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := from.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(from, p); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	_ = from.CloseWrite()
	wg.Wait()
}

// What a thousand streams take that have been used and do nothing: both ends together.
func BenchmarkIdle(b *testing.B) {
	const streams = 1000
	ab, ba := new(wire), new(wire)
	x, y := newSessions(b, ab, ba)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	p := make([]byte, 1000)
	all := make([]*Stream, 0, 2*streams)
	for range streams {
		from, to := newStreams(b, x, y)
		for _, way := range [][2]*Stream{{from, to}, {to, from}} {
			if _, err := way[0].Write(p); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(way[1], p); err != nil {
				b.Fatal(err)
			}
		}
		all = append(all, from, to)
	}
	waitFor(b, func() bool {
		x.gov.mu.Lock()
		defer x.gov.mu.Unlock()
		return len(x.gov.list) == 0
	})
	runtime.GC()
	runtime.ReadMemStats(&after)
	sent := ab.sent.Load() + ba.sent.Load()
	for b.Loop() {
		time.Sleep(100 * time.Millisecond)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(2*streams), "B/end")
	b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/(2*streams), "goroutines/end")
	b.ReportMetric(float64(ab.sent.Load()+ba.sent.Load()-sent), "packets")
	runtime.KeepAlive(all)
}
