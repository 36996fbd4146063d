package punch

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
)

// BenchmarkFlood sends in one direction over loopback as fast as that goes, while the handler opens
// each datagram as a link does. What the receiver is too slow for is lost.
func BenchmarkFlood(b *testing.B) { floods(b, 0) }

// BenchmarkWindow is BenchmarkFlood by a sender that waits for the receiver, so that nothing is lost.
func BenchmarkWindow(b *testing.B) { floods(b, 1<<20) }

func floods(b *testing.B, window int64) {
	for _, mode := range floodModes {
		for _, size := range []int{1232, 1472} {
			b.Run(fmt.Sprintf("%s/size=%d", mode.name, size), func(b *testing.B) {
				from, to := listen(b, Config{}), listen(b, Config{})
				mode.set(b, from, to)
				flood(b, from, to, size, window)
			})
		}
	}
}

// flood keeps at most window bytes in flight, or any number if that is 0.
func flood(b *testing.B, from, to *Host, size int, window int64) {
	const n = 44 // a run of packets as a link hands it over
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		b.Fatal(err)
	}
	var sent, received, calls, bad atomic.Int64
	progress := make(chan struct{}, 1)
	nonce := make([]byte, gcm.NonceSize())
	to.SetHandler(func(p []byte, segment int, _ netip.AddrPort) {
		for rest := p; len(rest) > 0; {
			q := rest[:min(segment, len(rest))]
			if _, err := gcm.Open(q[4:4], nonce, q[4:], q[:4]); err != nil {
				bad.Add(1)
			}
			rest = rest[len(q):]
		}
		calls.Add(1)
		received.Add(int64(len(p)))
		select {
		case progress <- struct{}{}:
		default:
		}
	})
	p, dst := make([]byte, 0, n*size), loopback(to)
	for i := range n {
		head := binary.BigEndian.AppendUint32(nil, 0x40000000|uint32(i))
		p = append(p, gcm.Seal(head, nonce, make([]byte, size-4-gcm.Overhead()), head)...)
	}
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		for window > 0 && sent.Load()-received.Load() > window {
			<-progress
		}
		_ = from.Send(p, size, dst) // a full buffer is a loss
		sent.Add(int64(len(p)))
	}
	b.ReportMetric(float64(received.Load())*8/1e6/b.Elapsed().Seconds(), "Mbit/s-received")
	b.ReportMetric(float64(received.Load())/float64(size)/float64(max(1, calls.Load())), "datagrams/call")
	if bad.Load() > 0 {
		b.Errorf("%d datagrams are not what was sent", bad.Load())
	}
}

type floodMode struct {
	name string
	set  func(b *testing.B, from, to *Host)
}
