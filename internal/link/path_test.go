// In package link: this file fills a flow's queue as far as it goes, and looks at the search for the path's
// MTU.

package link

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/testtier"
)

func dontFragment(a, b *Config) { a.DontFragment, b.DontFragment = true, true }

// A copier sends numbered payloads of the path's MTU, each with a key of its own or with none, as fast
// as the link takes them, and notes what arrives at the other side.
type copier struct {
	mu      sync.Mutex
	came    map[uint32]bool
	largest int
	last    time.Time
	stall   time.Duration // the longest time without a payload
	bad     int           // payloads that are not as they were sent
}

func (c *copier) receive(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if !c.last.IsZero() {
		c.stall = max(c.stall, now.Sub(c.last))
	}
	c.last = now
	c.largest = max(c.largest, len(p))
	for _, b := range p[4:] {
		if b != p[0]^p[3] {
			c.bad++
			return
		}
	}
	c.came[binary.BigEndian.Uint32(p)] = true
}

// run sends for a time and returns how many payloads it sent.
func (c *copier) run(l *Link, flow uint32, keyed bool, size func() int, during time.Duration) (n uint32) {
	for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for {
			p := make([]byte, size())
			binary.BigEndian.PutUint32(p, n)
			for i := range p[4:] {
				p[4+i] = p[0] ^ p[3]
			}
			key := uint32(0)
			if keyed {
				key = n + 1
			}
			l.mu.Lock()
			room := l.sched.flows[flow] == nil || l.sched.flows[flow].bytes < 32<<10
			l.mu.Unlock()
			if !room || !l.Send(flow, key, p) {
				break
			}
			n++
		}
	}
	return n
}

func newCopier(l *Link) *copier {
	c := &copier{came: make(map[uint32]bool)}
	l.Receive(c.receive)
	return c
}

func TestPathMTU(t *testing.T) {
	for _, c := range []struct {
		mtu, want int
		probe     bool
	}{{1472, 1472, true}, {1500, 1472, true}, {1464, 1452, true}, {1300, packetBytes, true}, {1500, packetBytes, false}} {
		t.Run(fmt.Sprint(c.mtu, c.probe), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				change := dontFragment
				if !c.probe {
					change = nil
				}
				s := shape{delay: 20 * time.Millisecond, mtu: c.mtu}
				p := newPair(t, s, s, change)
				defer p.close()
				p.up(t)
				time.Sleep(time.Second)
				for _, l := range []*Link{p.a, p.b} {
					if l.MTU() != c.want-overheadBytes || l.Stats().MTU != c.want {
						t.Errorf("payloads of %d in packets of %d bytes, want %d", l.MTU(), l.Stats().MTU, c.want)
					}
				}
			})
		})
	}
}

// TestPathShrinks: a path that stops to carry large packets, without a word, carries on within 3 s.
func TestPathShrinks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rtt   time.Duration
		rate  float64
		loss  float64
		keyed bool
		small bool // another flow's small payloads come through
	}{
		{2 * time.Millisecond, 125e6, 0, true, false},
		{40 * time.Millisecond, 12.5e6, 0, true, false},
		{40 * time.Millisecond, 12.5e6, 0.05, true, true},
		{200 * time.Millisecond, 6.25e6, 0.02, true, false},
		{200 * time.Millisecond, 6.25e6, 0, true, true},
		{40 * time.Millisecond, 12.5e6, 0, false, false},
	} {
		t.Run(fmt.Sprintf("%v loss %v keyed %v small %v", c.rtt, c.loss, c.keyed, c.small), func(t *testing.T) {
			if !c.keyed || c.loss > 0 || c.rtt != 40*time.Millisecond {
				testtier.Long(t)
			}
			synctest.Test(t, func(t *testing.T) {
				s := shape{rate: c.rate, queue: int(c.rate / 10), delay: c.rtt / 2, mtu: 1472, loss: c.loss}
				p := newPair(t, s, s, dontFragment)
				defer p.close()
				p.up(t)
				co := newCopier(p.b)
				shrink := time.AfterFunc(2*time.Second, func() {
					if m := p.a.MTU(); m != mostMTU {
						t.Errorf("MTU is %d, want %d", m, mostMTU)
					}
					p.ab.set(func(q *pipe) { q.mtu = 1272 })
					co.mu.Lock()
					co.stall = 0
					co.mu.Unlock()
				})
				defer shrink.Stop()
				if c.small {
					small := time.NewTicker(10 * time.Millisecond)
					defer small.Stop()
					stop := make(chan struct{})
					defer close(stop)
					go func() {
						for {
							select {
							case <-small.C:
								p.a.Send(9, 0, []byte{0xff, 0xff, 0xff, 0xff})
							case <-stop:
								return
							}
						}
					}()
					p.b.Receive(func(b []byte) {
						if len(b) > 4 {
							co.receive(b)
						}
					})
				}
				// Whoever cuts payloads notices later that the MTU fell.
				size, looked := 0, time.Time{}
				n := co.run(p.a, 7, c.keyed, func() int {
					if time.Since(looked) > 20*time.Millisecond {
						size, looked = p.a.MTU(), time.Now()
					}
					return size
				}, 6*time.Second)
				time.Sleep(2 * time.Second)
				co.mu.Lock()
				defer co.mu.Unlock()
				if co.stall >= 3*time.Second || time.Since(co.last) > 3*time.Second || co.bad > 0 {
					t.Errorf("%v without a payload, last one %v ago, %d spoilt", co.stall, time.Since(co.last), co.bad)
				}
				if c.keyed && len(co.came) != int(n) {
					t.Errorf("%d of %d payloads came", len(co.came), n)
				}
				// Where losses look like a still narrower path, one size less may be in use for a while.
				if p.a.MTU() > mtuBytes || p.a.MTU() < mtuBytes-100 || p.b.MTU() != mostMTU {
					t.Errorf("MTU is %d and back %d, want about %d and %d", p.a.MTU(), p.b.MTU(), mtuBytes, mostMTU)
				}
				t.Logf("%v without a payload, then on; %d payloads; %+v", co.stall, n, p.a.Stats())
			})
		})
	}
}

// TestPathLossy: loss alone does not look like a path that shrank.
func TestPathLossy(t *testing.T) {
	t.Parallel()
	d := 3 * time.Second
	if testtier.IsLong() {
		d = 20 * time.Second
	}
	trials(t, func(t *trial) {
		s := shape{rate: 12.5e6, queue: 200e3, delay: 20 * time.Millisecond, mtu: 1472, loss: 0.1}
		p := newPair(t.T, s, s, dontFragment)
		defer p.close()
		p.up(t.T)
		co := newCopier(p.b)
		co.run(p.a, 7, true, p.a.MTU, d)
		if p.a.MTU() != mostMTU || p.a.pmtu.falls > 0 {
			t.Errorf("MTU is %d after %d falls, want %d", p.a.MTU(), p.a.pmtu.falls, mostMTU)
		}
	})
}

// TestPathOutage: a path that carries nothing for a while carries large packets afterwards.
func TestPathOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := shape{rate: 12.5e6, queue: 200e3, delay: 20 * time.Millisecond, mtu: 1472}
		p := newPair(t, s, s, dontFragment)
		defer p.close()
		p.up(t)
		co := newCopier(p.b)
		down := func(d bool) func() {
			return func() { p.ab.set(func(q *pipe) { q.down = d }) }
		}
		defer time.AfterFunc(2*time.Second, down(true)).Stop()
		defer time.AfterFunc(12*time.Second, down(false)).Stop()
		n := co.run(p.a, 7, true, p.a.MTU, 15*time.Second)
		time.Sleep(2 * time.Second)
		co.mu.Lock()
		defer co.mu.Unlock()
		if p.a.MTU() != mostMTU || len(co.came) != int(n) {
			t.Errorf("MTU is %d, %d of %d payloads came", p.a.MTU(), len(co.came), n)
		}
	})
}

// TestPathMoves: another host's path is another path; another port of the same host is not.
func TestPathMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := shape{delay: 20 * time.Millisecond, mtu: 1472}
		p := newPair(t, s, s, dontFragment)
		defer p.close()
		p.up(t)
		time.Sleep(time.Second)
		other := netip.AddrPortFrom(addrB.Addr(), addrB.Port()+1)
		far := netip.MustParseAddrPort("203.0.113.9:1")
		p.net.mu.Lock()
		p.net.muxes[other], p.net.muxes[far] = p.mb, p.mb
		p.net.mu.Unlock()
		p.a.Use(other)
		if m := p.a.MTU(); m != mostMTU {
			t.Errorf("MTU is %d on another port, want %d", m, mostMTU)
		}
		p.a.Use(far)
		if m := p.a.MTU(); m != mtuBytes {
			t.Errorf("MTU is %d on another path, want %d", m, mtuBytes)
		}
		time.Sleep(time.Second)
		if m := p.a.MTU(); m != mostMTU {
			t.Errorf("MTU is %d a second later, want %d", m, mostMTU)
		}
	})
}
