// In package link: this file uses the network in memory of sim_test.go.

package link

import (
	"encoding/binary"
	"math"
	"net/netip"
	"sync"
	"time"
)

// A cubic is a bulk sender with the congestion control of RFC 9438 (and HyStart, RFC 9406, without
// the conservative part) over a pipe, whose acknowledgements are never lost. Losses are found by three
// later packets.
type cubic struct {
	pipe    *pipe
	to      netip.AddrPort
	back    time.Duration // of an acknowledgement
	mu      sync.Mutex
	window  float64 // packets
	limit   float64 // ssthresh
	most    float64 // W_max
	epoch   time.Time
	origin  float64 // window at epoch
	k       float64 // seconds
	friend  float64 // W_est
	next    uint64
	low     uint64 // not acknowledged
	acked   map[uint64]bool
	sentAt  map[uint64]time.Time
	flying  int
	recover uint64
	rtt     time.Duration
	minRTT  time.Duration
	heard   time.Time
	timer   *time.Timer
	arrived int // bytes
	over    bool
}

const cubicBytes = 1472

func newCubic(p *pipe, back time.Duration) *cubic {
	c := &cubic{pipe: p, to: netip.MustParseAddrPort("203.0.113.1:1"), back: back, window: 10, limit: math.Inf(1),
		acked: make(map[uint64]bool), sentAt: make(map[uint64]time.Time), heard: time.Now()}
	p.net.mu.Lock()
	p.net.sinks = map[netip.AddrPort]func([]byte){c.to: func(b []byte) {
		n := binary.BigEndian.Uint64(b)
		time.AfterFunc(c.back, func() { c.ack(n) })
	}}
	p.net.mu.Unlock()
	c.timer = time.AfterFunc(time.Second, c.timeout)
	c.mu.Lock()
	c.send()
	c.mu.Unlock()
	return c
}

func (c *cubic) stop() {
	c.mu.Lock()
	c.over = true
	c.timer.Stop()
	c.mu.Unlock()
	time.Sleep(2 * time.Second) // until nothing flies
}

func (c *cubic) send() {
	b := make([]byte, cubicBytes)
	for !c.over && c.flying < int(c.window) {
		binary.BigEndian.PutUint64(b, c.next)
		c.sentAt[c.next] = time.Now()
		c.next++
		c.flying++
		_ = c.pipe.Send(b, len(b), c.to)
	}
}

func (c *cubic) timeout() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	if time.Since(c.heard) >= time.Second {
		c.limit, c.window, c.epoch = max(c.window*0.7, 2), 1, time.Time{}
		c.low, c.flying, c.recover = c.next, 0, c.next
		clear(c.acked)
		clear(c.sentAt)
		c.heard = time.Now()
		c.send()
	}
	c.timer.Reset(200 * time.Millisecond)
}

func (c *cubic) ack(n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arrived += cubicBytes
	now := time.Now()
	at, ok := c.sentAt[n]
	if n < c.low || !ok {
		return
	}
	c.heard = now
	c.rtt = now.Sub(at)
	if c.minRTT == 0 || c.rtt < c.minRTT {
		c.minRTT = c.rtt
	}
	delete(c.sentAt, n)
	c.acked[n] = true
	c.flying--
	for ; c.acked[c.low]; c.low++ {
		delete(c.acked, c.low)
	}
	for c.low+3 <= n { // lost
		if !c.acked[c.low] {
			delete(c.sentAt, c.low)
			c.flying--
			if c.low >= c.recover {
				c.reduce()
			}
		}
		delete(c.acked, c.low)
		c.low++
		for ; c.acked[c.low]; c.low++ {
			delete(c.acked, c.low)
		}
	}
	c.grow(now)
	c.send()
}

func (c *cubic) reduce() {
	c.recover = c.next
	if c.window < c.most {
		c.most = c.window * 0.85 // fast convergence
	} else {
		c.most = c.window
	}
	c.window = max(c.window*0.7, 2)
	c.limit = c.window
	c.epoch = time.Time{}
}

func (c *cubic) grow(now time.Time) {
	if c.window < c.limit {
		c.window++
		if c.window > 16 && c.rtt > c.minRTT+min(max(c.minRTT/8, 4*time.Millisecond), 16*time.Millisecond) {
			c.limit = c.window
		}
		return
	}
	if c.epoch.IsZero() {
		c.epoch, c.origin, c.friend = now, c.window, c.window
		c.most = max(c.most, c.window)
		c.k = math.Cbrt((c.most - c.window) / 0.4)
	}
	t := now.Sub(c.epoch).Seconds() + c.rtt.Seconds()
	target := min(max(0.4*math.Pow(t-c.k, 3)+c.most, c.window), 1.5*c.window)
	c.friend += 3 * 0.3 / 1.7 / c.window
	if target > c.window {
		c.window += (target - c.window) / c.window
	}
	c.window = max(c.window, c.friend)
}

// bytes returns what arrived.
func (c *cubic) bytes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.arrived
}
