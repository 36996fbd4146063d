package punch

import (
	"net"
	"testing"
)

// BenchmarkDrain reads datagrams that wait: what receiving costs when the kernel does not merge them.
func BenchmarkDrain(b *testing.B) {
	for _, f := range []fallback{{name: "gro"}, {name: "no-gro", noGRO: true}, {name: "plain", noGRO: true, noMmsg: true}} {
		b.Run(f.name, func(b *testing.B) {
			h := listen(b, Config{})
			h.socks[0].batch.gso.Store(false)
			c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			var s batch
			if err := s.init(c); err != nil {
				b.Fatal(err)
			}
			setBuffers(c, bufferBytes)
			s.gro.Store(s.gro.Load() && !f.noGRO)
			s.mmsg.Store(!f.noMmsg)
			const n = 512
			p, to, r := datagrams(0, n, 1232, 1232), c.LocalAddr().(*net.UDPAddr).AddrPort(), s.reader()
			calls := 0
			b.SetBytes(1232)
			for i := 0; i < b.N; {
				b.StopTimer()
				if err := h.Send(p, 1232, to); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				for left := n; left > 0 && i < b.N; calls++ {
					runs, err := r.read()
					if err != nil {
						b.Fatal(err)
					}
					for _, x := range runs {
						k := (len(x.b) + x.segment - 1) / x.segment
						left -= k
						i += k
					}
				}
			}
			b.ReportMetric(float64(b.N)/float64(calls), "datagrams/call")
		})
	}
}
