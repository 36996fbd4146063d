package main

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"adit/internal/netlab"
)

const (
	warmUp = 2 * time.Second
	window = 8 * time.Second
	step   = 500 * time.Millisecond // between two raw samples of a bulk transfer

	bulkMeter  = 0
	otherMeter = 1
)

// A scenario is a link and what is measured on it.
type scenario struct {
	name    string
	about   string
	link    netlab.LinkConfig
	only    []string // the tools it is about; all of them if empty
	runs    int      // at most so many, if not 0
	measure func(*bench)
	metrics []metric // in the order of the table
}

// A metric is one row of a scenario's table.
type metric struct {
	name string
	goal string // what adit is to reach, if anything
}

// A bench is a tool that runs on a scenario's link.
type bench struct {
	*job
	client
	network
	tunnel
}

// link is a link whose queue is given in bandwidth-delay products.
func link(delay time.Duration, bits int64, loss, queue float64) netlab.LinkConfig {
	bdp := float64(bits) / 8 * 2 * delay.Seconds()
	return netlab.LinkConfig{Delay: delay, RateBits: bits, Loss: loss, QueueBytes: int(queue * bdp)}
}

var (
	w1    = link(20*time.Millisecond, 100e6, 0, 1)
	w2    = link(20*time.Millisecond, 100e6, 0.01, 1)
	w3    = link(100*time.Millisecond, 50e6, 0.02, 1)
	w4    = link(20*time.Millisecond, 20e6, 0, 2)
	loss5 = link(20*time.Millisecond, 100e6, 0.05, 1)

	jitter = func() netlab.LinkConfig {
		c := w1
		c.Jitter, c.Reorder = 10*time.Millisecond, 0.02
		return c
	}()
)

// Names of metrics.
const (
	mSetup    = "set-up"
	mBulk     = "bulk"
	mBulk8    = "bulk, 8 streams"
	mCPU      = "CPU, both sides"
	mRSSLeft  = "peak RSS, sender"
	mRSSRight = "peak RSS, receiver"
	mWire     = "bytes on the wire for one delivered"
	mDrops    = "dropped by the link's queue"
	mConn     = "short connection, p50"
	mConnRate = "short connections"
	mEcho50   = "echo, p50"
	mEcho99   = "echo, p99"
	mLoad50   = "echo beside the bulk, p50"
	mLoad99   = "echo beside the bulk, p99"
	mShare    = "share"
	mSum      = "both together"
	mIdleL    = "CPU, left"
	mIdleR    = "CPU, right"
	mIdleWire = "on the wire, both ways"
	mGap      = "longest gap"
	mOthers   = "cores that others had"
)

// units are those of the metrics.
var units = map[string]string{
	mSetup: "ms", mBulk: "Mbit/s", mBulk8: "Mbit/s", mCPU: "s/GB", mRSSLeft: "MiB", mRSSRight: "MiB", mWire: "×", mDrops: "%",
	mConn: "ms", mConnRate: "/s", mEcho50: "ms", mEcho99: "ms", mLoad50: "ms", mLoad99: "ms", mShare: "%", mSum: "Mbit/s",
	mIdleL: "% of a core", mIdleR: "% of a core", mIdleWire: "B/s", mGap: "s", mOthers: "of the machine's",
}

// scenarios are in the order in which they are run and written.
var scenarios = []scenario{
	{
		name: "L", about: "a veth pair, no emulation: as fast as two cores are that both peers and the probe share",
		measure: func(b *bench) {
			b.bulk(1, mBulk, true)
			b.memory()
			b.bulk(8, mBulk8, false)
		},
		metrics: []metric{{mSetup, ""}, {mBulk, "≥ 3300"}, {mBulk8, "≥ 3500"}, {mCPU, ""},
			{mRSSLeft, "< 80"}, {mRSSRight, "< 80"}},
	},
	{
		name: "W1", about: "40 ms, 100 Mbit/s, a queue of 1 BDP", link: w1,
		measure: func(b *bench) { b.bulk(1, mBulk, true); b.memory() },
		metrics: []metric{{mSetup, ""}, {mBulk, "≥ 93"}, {mCPU, ""}, {mWire, ""}, {mDrops, ""}},
	},
	{
		name: "W2", about: "W1 with 1 % loss each way; 1,000 short connections, 100 at a time (connect, 64 bytes there and back, close)", link: w2,
		measure: func(b *bench) {
			b.echo(4, 20*time.Millisecond, mEcho50, mEcho99)
			b.short(1000, 100)
			b.bulk(1, mBulk, true)
		},
		metrics: []metric{{mSetup, ""}, {mBulk, "≥ 90"}, {mWire, ""}, {mDrops, ""}, {mConn, "≤ 45"},
			{mConnRate, "≥ 2000"}, {mEcho50, ""}, {mEcho99, "≤ 50"}},
	},
	{
		name: "W3", about: "200 ms, 50 Mbit/s, 2 % loss each way, a queue of 1 BDP", link: w3,
		measure: func(b *bench) { b.bulk(1, mBulk, true) },
		metrics: []metric{{mSetup, ""}, {mBulk, "≥ 45"}, {mWire, ""}, {mDrops, ""}},
	},
	{
		name: "W4", about: "40 ms, 20 Mbit/s, a queue of 2 BDP; echoes beside a bulk transfer through the same tunnel", link: w4,
		measure: func(b *bench) {
			stop := b.flood(1, bulkMeter)
			b.pause(warmUp)
			from := b.service.meters[bulkMeter].bytes.Load()
			began := time.Now()
			b.echo(4, 20*time.Millisecond, mLoad50, mLoad99)
			b.record(mBulk, mbits(b.service.meters[bulkMeter].bytes.Load()-from, time.Since(began)), nil)
			stop()
			b.wire()
		},
		metrics: []metric{{mBulk, "≥ 18"}, {mLoad50, "≤ 45"}, {mLoad99, "≤ 65"}, {mDrops, ""}},
	},
	{
		name: "fair", about: "W4's link for 60 s: a bulk transfer beside one TCP CUBIC, both from the start", link: w4,
		only: []string{"adit", "kcptun", "tcp"},
		measure: func(b *bench) {
			useControl(b.job, b.network, "eth0", b.network.left.Addr(), "cubic")
			other := client{b.job, b.network.left, netip.AddrPortFrom(b.network.right.Addr(), servicePort)}
			b.flood(1, bulkMeter)
			other.flood(1, otherMeter)
			b.shares(60 * time.Second)
		},
		metrics: []metric{{mShare, "30–70"}, {mSum, ""}},
	},
	{
		name: "two", about: "W1: two adit sessions, the second 2 s after the first; the share of the first over 20 s", link: w1, only: []string{"adit"},
		measure: func(b *bench) {
			t, _ := startAditAt(b.job, b.network, 8081)
			other := client{b.job, b.network.left, t.entry}
			other.ready(15 * time.Second)
			b.flood(1, bulkMeter)
			b.pause(warmUp)
			other.flood(1, otherMeter)
			b.pause(warmUp)
			b.shares(20 * time.Second)
		},
		metrics: []metric{{mShare, "40–60"}, {mSum, ""}},
	},
	{
		name: "loss5", about: "W1 with 5 % loss each way", link: loss5,
		measure: func(b *bench) { b.bulk(1, mBulk, true) },
		metrics: []metric{{mBulk, "≥ 75"}, {mWire, ""}, {mDrops, ""}},
	},
	{
		name: "jitter", about: "W1 with up to 10 ms of jitter, and 2 % of the packets 2.5 ms late and overtaken", link: jitter,
		measure: func(b *bench) { b.echo(4, 20*time.Millisecond, mEcho50, mEcho99); b.bulk(1, mBulk, true) },
		metrics: []metric{{mBulk, ""}, {mWire, ""}, {mDrops, ""}, {mEcho50, ""}, {mEcho99, ""}},
	},
	{
		name: "idle", about: "W1: 100 open streams, nothing sent for 60 s", link: w1, only: []string{"adit", "ssh", "kcptun"}, runs: 1,
		measure: func(b *bench) { b.idle(100, 60*time.Second) },
		metrics: []metric{{mIdleL, "< 1"}, {mIdleR, "< 1"}, {mIdleWire, "< 300"}},
	},
	{
		name: "many", about: "L with 1,000 open streams, 10 of them busy", only: []string{"adit", "ssh", "kcptun"},
		measure: func(b *bench) {
			for range 990 {
				b.hold()
			}
			b.bulk(10, mBulk, false)
			b.memory()
		},
		metrics: []metric{{mBulk, ""}, {mRSSLeft, "< 400"}, {mRSSRight, "< 400"}},
	},
	{
		name: "mtu", about: "W1 in whose midst packets of more than 1,300 bytes begin to vanish, 4 s after the start of a bulk transfer: the longest gap between two reads in the 12 s that follow", link: w1,
		only: []string{"adit"},
		measure: func(b *bench) {
			b.flood(1, bulkMeter)
			b.pause(4 * time.Second)
			m := &b.service.meters[bulkMeter]
			m.longest.Store(0)
			for _, h := range b.hosts() {
				b.run(h, "table inet shrink { chain in { type filter hook prerouting priority -300; iifname \"eth0\" meta length > 1300 drop; }; }\n", "nft", "-f", "-")
			}
			b.pause(12 * time.Second)
			open := time.Since(b.service.began) - time.Duration(m.last.Load()) // it may not have gone on at all
			b.record(mGap, max(time.Duration(m.longest.Load()), open).Seconds(), nil)
		},
		metrics: []metric{{mGap, "< 3"}},
	},
}

// bulk sends on some connections, waits for the warm-up to be over, and records the receiver's rate.
func (b *bench) bulk(conns int, name string, cost bool) {
	before := b.network.left.LinkStats()
	m := &b.service.meters[bulkMeter]
	first := m.bytes.Load()
	stop := b.flood(conns, bulkMeter)
	b.pause(warmUp)
	pids := b.pids()
	from, used, began := m.bytes.Load(), cpu(pids), time.Now()
	var raw []float64
	for end, last, at := began.Add(window), from, began; at.Before(end); {
		b.pause(step)
		now, n := time.Now(), m.bytes.Load()
		raw = append(raw, mbits(n-last, now.Sub(at)))
		last, at = n, now
	}
	n, took := m.bytes.Load()-from, time.Since(began)
	used = cpu(pids) - used
	after, all := b.network.left.LinkStats(), m.bytes.Load()-first
	stop()
	b.record(name, mbits(n, took), raw)
	if cost && len(pids) > 0 {
		b.record(mCPU, used/(float64(n)/1e9), nil)
	}
	if cost && after.Packets > 0 {
		b.record(mWire, float64(after.Bytes-before.Bytes)/float64(max(all, 1)), nil)
		b.record(mDrops, 100*float64(after.QueueDropped-before.QueueDropped)/float64(after.Packets-before.Packets), nil)
	}
}

// wire records what the link's queue dropped since the beginning.
func (b *bench) wire() {
	s := b.network.left.LinkStats()
	b.record(mDrops, 100*float64(s.QueueDropped)/float64(max(s.Packets, 1)), nil)
}

// memory records the peaks of resident memory of both sides.
func (b *bench) memory() {
	if len(b.pids()) > 0 {
		b.record(mRSSLeft, peak(b.tunnel.left), nil)
		b.record(mRSSRight, peak(b.tunnel.right), nil)
	}
}

// echo records round trips of 64 bytes over the window.
func (b *bench) echo(conns int, interval time.Duration, p50, p99 string) {
	all := millis(b.pingpong(conns, interval, window))
	b.record(p50, quantile(all, 0.5), all)
	b.record(p99, quantile(all, 0.99), nil)
}

// short records short connections.
func (b *bench) short(n, atOnce int) {
	each, took := b.connections(n, atOnce)
	all := millis(each)
	b.record(mConn, quantile(all, 0.5), all)
	b.record(mConnRate, float64(n)/took.Seconds(), nil)
}

// shares records how two bulk transfers that are running share the link.
func (b *bench) shares(span time.Duration) {
	meters := [2]*meter{&b.service.meters[bulkMeter], &b.service.meters[otherMeter]}
	var from, last, got [2]int64
	for i, m := range meters {
		from[i] = m.bytes.Load()
	}
	last = from
	var raw []float64
	began := time.Now()
	for time.Since(began) < span {
		b.pause(time.Second)
		var step [2]int64
		for i, m := range meters {
			now := m.bytes.Load()
			step[i], last[i] = now-last[i], now
		}
		raw = append(raw, share(step))
	}
	for i := range got {
		got[i] = last[i] - from[i]
	}
	b.record(mShare, share(got), raw)
	b.record(mSum, mbits(got[0]+got[1], time.Since(began)), nil)
}

func share(n [2]int64) float64 { return 100 * float64(n[0]) / float64(max(n[0]+n[1], 1)) }

// hold opens a connection that does nothing after one echo, as long as the job lasts.
func (b *bench) hold() {
	conn := b.open(modeEcho, 0)
	_, err := conn.Write([]byte{1})
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	b.check("hold a connection", err)
}

// idle records what open streams cost that carry nothing.
func (b *bench) idle(streams int, span time.Duration) {
	for range streams {
		b.hold()
	}
	b.pause(5 * time.Second) // what the opening left behind
	onWire := func() int64 { return b.network.left.LinkStats().Bytes + b.network.right.LinkStats().Bytes }
	began, bytes, left, right := time.Now(), onWire(), cpu(b.tunnel.left), cpu(b.tunnel.right)
	b.pause(span)
	took := time.Since(began).Seconds()
	b.record(mIdleL, 100*(cpu(b.tunnel.left)-left)/took, nil)
	b.record(mIdleR, 100*(cpu(b.tunnel.right)-right)/took, nil)
	b.record(mIdleWire, float64(onWire()-bytes)/took, nil)
}

func mbits(n int64, d time.Duration) float64 { return float64(n) * 8 / 1e6 / d.Seconds() }

func millis(d []time.Duration) []float64 {
	out := make([]float64, len(d))
	for i, x := range d {
		out[i] = float64(x.Microseconds()) / 1e3
	}
	return out
}

// quantile returns the value below which a share q of the values lies, by rank.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Clone(v)
	slices.Sort(v)
	return v[int(q*float64(len(v)-1)+0.5)]
}

// median is the mean of the middle two of an even number.
func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// find returns the scenario or tool of that name.
func find[T any](all []T, name string, of func(T) string) (T, error) {
	i := slices.IndexFunc(all, func(x T) bool { return of(x) == name })
	if i < 0 {
		var names []string
		for _, x := range all {
			names = append(names, of(x))
		}
		return *new(T), fmt.Errorf("%q is none of %v", name, names)
	}
	return all[i], nil
}
