package reliable

import (
	_ "unsafe" // for go:linkname

	kcp "github.com/xtaci/kcp-go/v5"
)

// flush sends what the window has room for and what is due again. kcp.KCP has no exported method that
// does so at once: Update waits for the interval. kcp.UDPSession flushes on each write, but costs three
// goroutines, 290 KiB, two more copies of each packet and a queue that drops what exceeds 2048 packets.
//
// It returns after how many milliseconds it is wanted again, the interval at most. The linker fails if
// a later version of kcp-go has no such method; TestFlush fails if it means something else.
//
//go:linkname flush github.com/xtaci/kcp-go/v5.(*KCP).flush
func flush(k *kcp.KCP, t kcp.FlushType) (next uint32)
