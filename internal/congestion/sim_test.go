package congestion

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"adit/internal/simnet"
)

var trace = flag.Duration("watch", 0, "print what the first sender of a scene believes, at this interval")

// A sim runs senders over lines by events, without goroutines: a minute at 20 Mbit/s takes a tenth of a second.
type sim struct {
	now    time.Duration
	events []event // a heap
	seq    int
	rand   *rand.Rand
}

type event struct {
	at  time.Duration
	seq int
	do  func()
}

func newSim(seed uint64) *sim {
	return &sim{now: 1, rand: rand.New(rand.NewPCG(seed, 99))}
}

func (e *event) before(f *event) bool { return e.at < f.at || e.at == f.at && e.seq < f.seq }

func (s *sim) at(at time.Duration, do func()) {
	s.seq++
	h := append(s.events, event{max(at, s.now), s.seq, do})
	i := len(h) - 1
	for e := h[i]; i > 0 && e.before(&h[(i-1)/2]); i = (i - 1) / 2 {
		h[i], h[(i-1)/2] = h[(i-1)/2], e
	}
	s.events = h
}

// run handles what happens until the given time.
func (s *sim) run(until time.Duration) {
	for len(s.events) > 0 && s.events[0].at <= until {
		h := s.events
		first, e := h[0], h[len(h)-1]
		h[len(h)-1] = event{}
		h = h[:len(h)-1]
		for i := 0; len(h) > 0; {
			c := 2*i + 1
			if c+1 < len(h) && h[c+1].before(&h[c]) {
				c++
			}
			if c >= len(h) || !h[c].before(&e) {
				h[i] = e
				break
			}
			h[i] = h[c]
			i = c
		}
		s.events = h
		s.now = first.at
		first.do()
	}
	s.now = until
}

const binTime = 100 * time.Millisecond

// bins count bytes in each binTime.
type bins []float64

func (b *bins) add(now time.Duration, bytes int) {
	i := int(now / binTime)
	for len(*b) <= i {
		*b = append(*b, 0)
	}
	(*b)[i] += float64(bytes)
}

// sum counts from one time to another.
func (b bins) sum(from, to time.Duration) (n float64) {
	for i := int(from / binTime); i < int(to/binTime) && i < len(b); i++ {
		n += b[i]
	}
	return n
}

// A flow is a sender and its receiver.
type flow struct {
	sim      *sim
	s        *Sender[int]
	up, down *simnet.Line
	size     int // bytes of a packet, without IP and UDP
	limit    float64
	free     bool // of the ceiling: what TCP sends
	every    int  // packets that are reported at once
	interval time.Duration

	// The sender.
	counter uint64
	timer   int // the one that counts
	app     struct {
		at     time.Duration
		tokens float64
	}

	// The receiver.
	rep     Report
	at      time.Duration // when the highest came
	skew    time.Duration // of the receiver's clock
	pending int
	due     bool
	seen    map[uint64]bool // if the line doubles

	sent, came, reported bins
	waits                []time.Duration // from sending to arrival
	buf                  []time.Duration
}

const ackBytes = simnet.HeaderBytes + 28 + 40

// add adds a flow that begins at a time. c nil is a Control.
func (s *sim) add(c Controller, up, down *simnet.Line, begin time.Duration) *flow {
	f := &flow{sim: s, s: NewSender[int](c), up: up, down: down, size: 1472, skew: time.Hour, every: FeedbackPackets(8 << 20)}
	s.at(begin, func() {
		f.s.Reset(0, s.now)
		f.app.at = s.now
		f.run()
	})
	return f
}

// tcp makes the flow report as TCP does: every second packet.
func (f *flow) tcp() *flow {
	f.free, f.every, f.interval = true, 2, 20*time.Millisecond
	return f
}

func (f *flow) run() {
	f.timer++
	now, s := f.sim.now, f.s
	var next time.Duration
	for {
		if f.free {
			s.ceiling.credit = math.MaxFloat64 / 4
		}
		waiting := 1 << 20
		if f.limit > 0 {
			f.app.tokens = min(f.app.tokens+f.limit*(now-f.app.at).Seconds(), 1<<20)
			f.app.at = now
			if waiting = int(f.app.tokens); waiting < f.size {
				s.Idle()
				next = now + seconds(float64(f.size-waiting+1)/f.limit)
				break
			}
		}
		if next = s.Turn(waiting, now); next > now {
			break
		}
		n := 0
		for ; n < 44 && waiting >= f.size && s.Open(now); n++ {
			f.send()
			waiting -= f.size
			f.app.tokens -= float64(f.size)
			if f.free {
				s.ceiling.credit = math.MaxFloat64 / 4
			}
		}
		if n > 0 {
			continue
		}
		if next = s.Timeout(); now >= next {
			s.Stall(now)
			continue
		}
		break
	}
	id := f.timer
	f.sim.at(next, func() {
		if f.timer == id {
			f.run()
		}
	})
}

func (f *flow) send() {
	f.counter++
	now, counter := f.sim.now, f.counter
	f.s.Sent(counter, f.size, now)
	f.sent.add(now, f.size)
	f.buf = f.up.Send(now, f.size+simnet.HeaderBytes, f.buf[:0])
	for _, at := range f.buf {
		f.sim.at(at, func() { f.arrive(counter, now) })
	}
}

func (f *flow) arrive(counter uint64, sentAt time.Duration) {
	now := f.sim.now
	if f.seen != nil {
		if f.seen[counter] {
			return
		}
		f.seen[counter] = true
	}
	f.came.add(now, f.size)
	f.waits = append(f.waits, now-sentAt)
	f.rep.Packets++
	f.rep.Bytes += uint64(f.size)
	if counter > f.rep.Highest {
		f.rep.Highest, f.at = counter, now
	}
	if f.pending++; f.pending >= f.every {
		f.tell()
	} else if !f.due {
		f.due = true
		d := f.interval
		if d == 0 {
			d = FeedbackInterval(f.s.SmoothedRTT())
		}
		f.sim.at(now+d, func() {
			if f.due {
				f.tell()
			}
		})
	}
}

func (f *flow) tell() {
	now := f.sim.now
	f.pending, f.due = 0, false
	rep := f.rep
	rep.Delay, rep.Buffer, rep.At = now-f.at, 8<<20, f.at+f.skew
	for _, at := range f.down.Send(now, ackBytes, nil) {
		f.sim.at(at, func() {
			before := f.s.delivered
			if f.s.Report(rep, f.sim.now) {
				f.reported.add(f.sim.now, int(f.s.delivered-before))
			}
			f.run()
		})
	}
}

// A call sends at a constant rate and does not listen.
type call struct {
	size       int // bytes of a packet, headers included
	sent, came int
	waits      []time.Duration
}

// call adds one of rate bytes a second, headers included, in packets of size bytes. With on and off it pauses.
func (s *sim) call(up *simnet.Line, rate float64, size int, begin, on, off time.Duration) *call {
	c := &call{size: size}
	gap := seconds(float64(size) / rate)
	var tick func()
	tick = func() {
		now := s.now
		if on == 0 || (now-begin)%(on+off) < on {
			c.sent++
			for _, at := range up.Send(now, size, nil) {
				c.came++
				c.waits = append(c.waits, at-now)
			}
		}
		s.at(now+gap*9/10+time.Duration(s.rand.Int64N(int64(gap/5)+1)), tick)
	}
	s.at(begin, tick)
	return c
}

// mark forgets what happened so far.
func (c *call) mark() { *c = call{size: c.size} }

func (c *call) loss() float64 { return 1 - float64(c.came)/float64(max(c.sent, 1)) }

// quantile returns a quantile of d, which it sorts; 0 of none.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(int(float64(len(d))*q), len(d)-1)]
}

// trace prints what the flow's controller believes, at intervals.
func (s *sim) trace(f *flow, every time.Duration) {
	var last traced
	var tick func()
	tick = func() {
		now := traced{f.s.sentBytes, f.s.delivered, f.s.lost(), f.up.Counts().Dropped}
		mbit := func(a, b uint64) float64 { return float64(a-b) * 8 / 1e6 / every.Seconds() }
		fmt.Printf("%7.2fs sent %6.2f told %6.2f Mbit/s lost %3d dropped %3d flying %4.0f window %4.0f credit %.0f %v\n", s.now.Seconds(), mbit(now.sent, last.sent),
			mbit(now.told, last.told), now.lost-last.lost, now.dropped-last.dropped, f.s.inFlight()/1472, f.s.window()/1472, f.s.ceiling.credit/1472, f.s.control)
		last = now
		s.at(s.now+every, tick)
	}
	s.at(1, tick)
}

// traced are what a trace shows the change of.
type traced struct{ sent, told, lost, dropped uint64 }

func (c *Control) String() string {
	t := &c.trips
	return fmt.Sprintf("phase %d.%d pace %.2f rate %.2f trip %v/%v queue %v noise %v calm %.3f loss %.3f rounds %d yield %d crowd %.0f turn %v", c.phase, c.cycle.index, c.pace()*8/1e6, c.rate.most*8/1e6,
		t.smoothed.Round(ms/10), t.path.Round(ms/10), t.queue.Round(ms/10), t.noise.Round(ms/100), c.loss.calm, c.loss.share, c.crowd.rounds, c.crowd.yield, c.crowd.window/1472, c.turn.worth)
}
