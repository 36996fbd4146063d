package relay

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// How much goes from a client through the relay to a peer, over loopback, while the client sends no more
// than 64 packets ahead of what the peer got: relayed throughput, not loss.
func BenchmarkRelay(b *testing.B) {
	const size, window = 1200, 64
	for _, transport := range []string{"udp", "tcp", "tls"} {
		b.Run(transport, func(b *testing.B) {
			s := startTURN(b, TURNConfig{Allow: loopbackOpen})
			peer, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
			if err != nil {
				b.Fatal(err)
			}
			defer peer.Close()
			to := peer.LocalAddr().(*net.UDPAddr).AddrPort()
			a, _ := allocateOn(b, s.access(transport, transport))
			if err := a.Permit(b.Context(), to.Addr()); err != nil {
				b.Fatal(err)
			}
			var got atomic.Int64
			more := make(chan struct{}, 1) // one signal is enough
			go func() {
				buf := make([]byte, 2000)
				for {
					if _, _, err := peer.ReadFromUDPAddrPort(buf); err != nil {
						return
					}
					got.Add(1)
					select {
					case more <- struct{}{}:
					default:
					}
				}
			}()
			packet := make([]byte, size)
			b.SetBytes(size)
			var sent int64
			for b.Loop() {
				for sent-got.Load() >= window {
					select {
					case <-more:
					case <-time.After(time.Second): // lost
						got.Add(1)
					}
				}
				if err := a.Send(packet, size, to); err == nil {
					sent++
				}
			}
		})
	}
}
