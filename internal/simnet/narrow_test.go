package simnet

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// TestNarrow: a copy on a narrow line does not flood it, whatever else is there: another copy of its own kind, or a call
// that does not give way. Once it sent a hundred times what the line carries.
func TestNarrow(t *testing.T) {
	const rate = 1e6 / 8
	for _, test := range []struct {
		name string
		call float64 // bytes a second; 0 is a second copy
		most float64 // bytes sent by all copies for one that they bring
	}{
		{"two copies", 0, 1.4},
		{"a call", 400e3 / 8, 1.4},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conf := Config{Rate: rate, Delay: 15 * time.Millisecond, Queue: rate / 5}
				w := newWorld(t, conf, Config{Delay: 15 * time.Millisecond}, 1)
				defer w.close()
				w.copy(t)
				came := func() int { return w.arrivals.sum() }
				if test.call == 0 {
					v := &world{net: w.net, up: w.up, down: w.down}
					v.join(t, w.up, w.down, netip.MustParseAddrPort("192.0.2.9:1000"), netip.MustParseAddrPort("198.51.100.9:2000"))
					defer v.end()
					v.copy(t)
					came = func() int { return w.arrivals.sum() + v.arrivals.sum() }
				} else {
					phone := w.net.Socket(netip.MustParseAddrPort("192.0.2.8:1"), w.up, nil)
					const size = 1000
					done := make(chan struct{})
					defer close(done)
					w.wg.Go(func() {
						for tick := time.NewTicker(time.Duration(size / test.call * 1e9)); ; {
							select {
							case <-tick.C:
								_ = phone.Send(make([]byte, size-HeaderBytes), size-HeaderBytes, netip.MustParseAddrPort("198.51.100.8:1"))
							case <-done:
								tick.Stop()
								return
							}
						}
					})
				}
				time.Sleep(10 * time.Second)
				before, sent := came(), w.up.Counts().SentBytes
				const d = 30 * time.Second
				time.Sleep(d)
				got := float64(came()-before) / headerShare
				all := float64(w.up.Counts().SentBytes-sent) - test.call*d.Seconds()
				t.Logf("%.2f of the line, %.2f sent for one; of %d datagrams %d dropped", got/d.Seconds()/(rate-test.call), all/got, w.up.Counts().Sent, w.up.Counts().Dropped)
				if all/got > test.most {
					t.Errorf("sent %.2f bytes for one, want %.2f", all/got, test.most)
				}
				if least := 0.75 * (rate - test.call) * d.Seconds(); got < least {
					t.Errorf("%.0f bytes came, want %.0f", got, least)
				}
			})
		})
	}
}
