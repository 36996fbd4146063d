package congestion

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"adit/internal/simnet"
)

const ms = time.Millisecond

// A scene is one to two senders at a bottleneck, and what else is there.
type scene struct {
	name  string
	mbit  float64       // of the bottleneck
	rtt   time.Duration // without a queue
	later time.Duration // the same after the steps, if that changes
	queue time.Duration // that it holds at its rate; or
	bytes int           // bytes
	conf  func(c *simnet.Config)
	down  float64 // Mbit/s of the other direction; 0: no limit
	both  bool    // a sender in the other direction, too
	two   time.Duration
	steps []step

	cubic, bbr, copies int           // others that send all the time
	call               float64       // Mbit/s of one
	on, off            time.Duration // of the call
	limit              float64       // Mbit/s that the sender has to send; 0: more than fits

	warm, during time.Duration // before it counts, and how long it does
}

// A step changes the path.
type step struct {
	at time.Duration
	up func(c *simnet.Config)
}

// An outcome is what came of a scene.
type outcome struct {
	share  float64   // of what the others leave, or of the rate
	wire   float64   // bytes sent for one that arrived
	each   []float64 // share of all, of each of our senders
	others float64   // Mbit/s of the others
	fair   float64   // the first sender's part of a fair share
	lost   float64   // by the call
	late   time.Duration
	wait   [2]time.Duration // in the queue beside the path's round trip: median and 99th percentile of our packets
	back   float64          // share of the other direction
	most   float64          // worst of sent to reported, over any window
	flow   *flow
}

func (o outcome) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%4.0f%% wire %5.2f most %5.2f wait %4d %4d ms", 100*o.share, o.wire, o.most, o.wait[0].Milliseconds(), o.wait[1].Milliseconds())
	if len(o.each) > 1 {
		fmt.Fprintf(&b, " each %.2f", o.each)
	}
	if o.fair > 0 {
		fmt.Fprintf(&b, " fair %.2f", o.fair)
	}
	if o.late > 0 {
		fmt.Fprintf(&b, " call loses %.2f%% late %v", 100*o.lost, o.late.Round(ms))
	}
	if o.back > 0 {
		fmt.Fprintf(&b, " back %3.0f%%", 100*o.back)
	}
	return b.String()
}

func (c *scene) rate() float64 { return c.mbit * 1e6 / 8 }

func (c *scene) config() simnet.Config {
	conf := simnet.Config{Rate: c.rate(), Delay: c.rtt / 2, Queue: c.bytes}
	if conf.Queue == 0 {
		conf.Queue = max(int(c.rate()*c.queue.Seconds()), 4*1500)
	}
	if c.conf != nil {
		c.conf(&conf)
	}
	return conf
}

// play runs a scene with senders that make makes.
func (c scene) play(make func(*rand.Rand) Controller, seed uint64) (o outcome) {
	s := newSim(seed)
	conf := c.config()
	back := simnet.Config{Delay: c.rtt / 2, Rate: c.down * 1e6 / 8, Queue: max(int(c.down*1e6/8*0.2), 1<<16)}
	up, down := simnet.NewLine(conf, seed, 1), simnet.NewLine(back, seed, 2)
	for _, st := range c.steps {
		s.at(st.at, func() { up.Change(st.up) })
	}
	var ours, others []*flow
	ours = append(ours, s.add(make(s.rand), up, down, 1))
	ours[0].limit = c.limit * 1e6 / 8
	if conf.Double > 0 {
		ours[0].seen = map[uint64]bool{}
	}
	if c.two > 0 {
		ours = append(ours, s.add(make(s.rand), up, down, c.two))
	}
	var other *flow
	if c.both {
		other = s.add(make(s.rand), down, up, 1)
	}
	begin := func() time.Duration { return time.Duration(s.rand.Int64N(int64(time.Second))) + 1 }
	for range c.cubic {
		others = append(others, s.add(new(cubic), up, down, begin()).tcp())
	}
	for range c.bbr {
		others = append(others, s.add(&bbr{random: s.rand.IntN}, up, down, begin()).tcp())
	}
	for range c.copies {
		others = append(others, s.add(make(s.rand), up, down, begin()))
	}
	var phone *call
	if c.call > 0 {
		size := 1000
		if c.call <= 0.1 {
			size = 200
		}
		phone = s.call(up, c.call*1e6/8, size, begin(), c.on, c.off)
	}
	warm, during := c.warm, c.during
	if *trace > 0 {
		if other != nil {
			s.trace(other, *trace)
		} else {
			s.trace(ours[0], *trace)
		}
	}
	if warm == 0 {
		warm = max(10*time.Second, 50*c.rtt)
	}
	if during == 0 {
		during = max(20*time.Second, 100*c.rtt)
	}
	s.run(warm)
	for _, f := range ours {
		f.waits = nil
	}
	if phone != nil {
		phone.mark()
	}
	end := warm + during
	s.run(end)
	wire := float64(1472+simnet.HeaderBytes) / 1472
	available := 0.0
	for at := warm; at < end; at += binTime {
		available += up.RateAt(at) * binTime.Seconds()
	}
	if p := conf.Police.Rate; p > 0 {
		available = p * during.Seconds()
	}
	available *= 1 - conf.Loss
	all, sent := 0.0, 0.0
	for _, f := range ours {
		all += f.came.sum(warm, end) * wire
		sent += f.sent.sum(warm, end) * wire
		o.each = append(o.each, f.came.sum(warm, end)*wire/available)
		o.most = max(o.most, f.worst(warm, end))
	}
	mine := all
	for _, f := range others {
		x := f.came.sum(warm, end) * wire
		all += x
		o.others += x * 8 / 1e6 / during.Seconds()
	}
	if phone != nil {
		left := available - float64(phone.came*phone.size)
		o.share = mine / left
		o.lost = phone.loss()
		o.late = quantile(phone.waits, 0.99) - c.rtt/2
	} else {
		o.share = all / available
	}
	if len(others) > 0 {
		o.fair = mine / available * float64(1+len(others))
	}
	o.wire = sent / mine
	base := c.rtt / 2
	if c.later > 0 {
		base = c.later - c.rtt/2
	}
	o.wait = [2]time.Duration{quantile(ours[0].waits, 0.5) - base, quantile(ours[0].waits, 0.99) - base}
	if other != nil {
		o.back = other.came.sum(warm, end) * wire / (c.down * 1e6 / 8 * during.Seconds())
		o.most = max(o.most, other.worst(warm, end))
	}
	o.flow = ours[0]
	return o
}

// worst returns the largest multiple of what was reported that was sent within three seconds and ten round trips. What
// a round trip held at the highest rate of the time before is left out, for it may be under way to a bottleneck that
// has become narrow, as are eight packets and, for what stalls grant, twice the trickle.
func (f *flow) worst(from, to time.Duration) (most float64) {
	trip := f.s.SmoothedRTT()
	d := max(ceilingTime, ceilingTrips*trip).Round(binTime)
	for at := from; at+d <= to; at += binTime {
		rate := 0.0
		for b := max(at-d, 0); b < at; b += binTime {
			rate = max(rate, f.reported.sum(b, b+binTime)/binTime.Seconds())
		}
		free := ceilingLeast + 2*trickle*d.Seconds() + rate*trip.Seconds()
		if x := (f.sent.sum(at, at+d) - free) / max(f.reported.sum(at, at+d), 1); x > most {
			most = x
		}
	}
	return most
}
