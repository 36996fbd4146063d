// In package link: this file looks at a flow's queue, to keep it filled.

package link

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"adit/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var (
	addrA = netip.MustParseAddrPort("192.0.2.1:1000")
	addrB = netip.MustParseAddrPort("198.51.100.2:2000")
)

// A network delivers datagrams between sockets in memory. Inside of a synctest bubble its time is
// simulated, so that what it does depends on its random source only.
type network struct {
	luck  uint64 // what the pipes' random numbers begin with
	mu    sync.Mutex
	muxes map[netip.AddrPort]*Mux
	sinks map[netip.AddrPort]func(b []byte) // for what is not of a link
}

// A shape is what a path does to packets.
type shape struct {
	rate   float64 // bytes/s; 0 is unlimited
	queue  int     // bytes the bottleneck holds
	delay  time.Duration
	jitter time.Duration // up to this much more, which reorders
	stall  time.Duration // up to so long at a time nothing is delivered, as where a processor is busy
	loss   float64
	double float64
	down   bool
	mtu    int // bytes of UDP payload; larger datagrams are dropped without a word; 0 is unlimited
}

// A pipe is one direction of a path. Its shape may be changed with mu held.
type pipe struct {
	shape
	net     *network
	mu      sync.Mutex
	rand    *rand.Rand
	from    netip.AddrPort
	stalled [2]time.Time // from, to
	busy    time.Time    // until when the bottleneck is busy
	flying  flying
	seq     int
	dropped int // in all
	lost    int // of these, not at the queue
	sent    int
	tap     func(b []byte, from, to netip.AddrPort) // sees each datagram as it is sent
	waits   []time.Duration                         // in the bottleneck's queue, of each datagram if watch is set
	watch   bool
	wake    chan struct{}
	done    chan struct{}
	over    chan struct{}
}

type flight struct {
	at       time.Time
	seq      int
	b        []byte
	from, to netip.AddrPort
}

type flying []flight

func (f flying) Len() int { return len(f) }
func (f flying) Less(i, j int) bool {
	return f[i].at.Before(f[j].at) || f[i].at.Equal(f[j].at) && f[i].seq < f[j].seq
}
func (f flying) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *flying) Push(x any)   { *f = append(*f, x.(flight)) }
func (f *flying) Pop() any {
	o := *f
	x := o[len(o)-1]
	*f = o[:len(o)-1]
	return x
}

func (n *network) pipe(from netip.AddrPort, s shape) *pipe {
	p := &pipe{shape: s, net: n, from: from}
	p.rand = rand.New(rand.NewPCG(n.luck, uint64(from.Port())))
	p.wake, p.done, p.over = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	go p.run()
	return p
}

func (p *pipe) set(f func(*pipe)) {
	p.mu.Lock()
	f(p)
	p.mu.Unlock()
}

// counts returns how many datagrams were sent and how many of them dropped.
func (p *pipe) counts() (sent, dropped int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent, p.dropped
}

func (p *pipe) Send(b []byte, segment int, to netip.AddrPort) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for len(b) > 0 {
		d := append([]byte(nil), b[:min(segment, len(b))]...)
		b = b[len(d):]
		if p.sent++; p.tap != nil {
			p.tap(d, p.from, to)
		}
		if p.down || p.mtu > 0 && len(d) > p.mtu || p.rand.Float64() < p.loss {
			p.dropped++
			p.lost++
			continue
		}
		at := now
		if p.rate > 0 {
			if p.busy.Before(now) {
				p.busy = now
			}
			size := float64(len(d) + 28)
			if p.busy.Sub(now).Seconds()*p.rate+size > float64(p.queue) {
				p.dropped++
				continue
			}
			if p.watch {
				p.waits = append(p.waits, p.busy.Sub(now))
			}
			p.busy = p.busy.Add(time.Duration(size / p.rate * 1e9))
			at = p.busy
		}
		p.flyLocked(d, p.from, to, at)
		if p.rand.Float64() < p.double {
			p.flyLocked(append([]byte(nil), d...), p.from, to, at)
		}
	}
	return nil
}

func (p *pipe) flyLocked(d []byte, from, to netip.AddrPort, at time.Time) {
	at = at.Add(p.delay)
	if p.jitter > 0 {
		at = at.Add(time.Duration(p.rand.Int64N(int64(p.jitter))))
	}
	if p.stall > 0 {
		for at.After(p.stalled[1]) {
			p.stalled[0] = at.Add(time.Duration(p.rand.ExpFloat64() * float64(4*p.stall)))
			p.stalled[1] = p.stalled[0].Add(time.Duration(p.rand.Int64N(int64(p.stall))))
		}
		if at.After(p.stalled[0]) {
			at = p.stalled[1]
		}
	}
	p.seq++
	heap.Push(&p.flying, flight{at, p.seq, d, from, to})
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// inject sends a datagram as if it came from another address.
func (p *pipe) inject(b []byte, from, to netip.AddrPort) {
	p.mu.Lock()
	p.flyLocked(append([]byte(nil), b...), from, to, time.Now())
	p.mu.Unlock()
}

func (p *pipe) run() {
	defer close(p.over)
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		p.mu.Lock()
		now := time.Now()
		var due []flight
		for len(p.flying) > 0 && !p.flying[0].at.After(now) {
			due = append(due, heap.Pop(&p.flying).(flight))
		}
		wait := time.Hour
		if len(p.flying) > 0 {
			wait = p.flying[0].at.Sub(now)
		}
		p.mu.Unlock()
		for _, f := range due {
			p.net.mu.Lock()
			m, sink := p.net.muxes[f.to], p.net.sinks[f.to]
			p.net.mu.Unlock()
			if sink != nil {
				sink(f.b)
			}
			if m != nil {
				m.Deliver(f.b, len(f.b), f.from)
			}
		}
		t.Reset(wait)
		select {
		case <-t.C:
		case <-p.wake:
		case <-p.done:
			return
		}
	}
}

func (p *pipe) stop() {
	close(p.done)
	<-p.over
}

// A pair is two linked peers on a network.
type pair struct {
	net    *network
	ma, mb *Mux
	a, b   *Link
	ab, ba *pipe
}

func key(b byte) (k [32]byte) {
	k[0] = b
	return k
}

// newPair links two peers. change, which may be nil, adapts their configurations.
func newPair(t *testing.T, ab, ba shape, change func(a, b *Config)) *pair {
	t.Helper()
	p := &pair{net: &network{luck: luckOf(t), muxes: make(map[netip.AddrPort]*Mux)}, ma: NewMux(), mb: NewMux()}
	p.net.muxes[addrA], p.net.muxes[addrB] = p.ma, p.mb
	p.ab, p.ba = p.net.pipe(addrA, ab), p.net.pipe(addrB, ba)
	ia, err := p.ma.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	ib, err := p.mb.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	ca := Config{Socket: p.ab, LocalIndex: ia, RemoteIndex: ib, SendKey: key(1), RecvKey: key(2), AES: true, ReceiveBuffer: 4 << 20}
	cb := Config{Socket: p.ba, LocalIndex: ib, RemoteIndex: ia, SendKey: key(2), RecvKey: key(1), AES: true, ReceiveBuffer: 4 << 20}
	if change != nil {
		change(&ca, &cb)
	}
	p.a, p.b = p.open(t, ca, cb)
	return p
}

func (p *pair) open(t *testing.T, ca, cb Config) (a, b *Link) {
	t.Helper()
	a, err := p.ma.Open(ca)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = p.mb.Open(cb); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// beside returns a pair of other links over the same path. It is closed before p.
func (p *pair) beside(t *testing.T) *pair {
	t.Helper()
	ia, err := p.ma.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	ib, err := p.mb.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	q := *p
	q.a, q.b = p.open(t,
		Config{Socket: p.ab, LocalIndex: ia, RemoteIndex: ib, SendKey: key(3), RecvKey: key(4), AES: true, ReceiveBuffer: 4 << 20},
		Config{Socket: p.ba, LocalIndex: ib, RemoteIndex: ia, SendKey: key(4), RecvKey: key(3), AES: true, ReceiveBuffer: 4 << 20})
	return &q
}

// up makes both sides use the path.
func (p *pair) up(t *testing.T) {
	t.Helper()
	if _, err := p.a.Probe(context.Background(), addrB); err != nil {
		t.Fatal(err)
	}
	if _, err := p.b.Probe(context.Background(), addrA); err != nil {
		t.Fatal(err)
	}
	p.a.Use(addrB)
	p.b.Use(addrA)
}

func (p *pair) close() {
	p.a.Close("")
	p.b.Close("")
	p.ab.stop()
	p.ba.stop()
}

// queueing returns percentiles of how long datagrams waited in the bottleneck's queue since the last
// call.
func (p *pipe) queueing() (p50, p99 time.Duration) {
	p.mu.Lock()
	w := p.waits
	p.waits, p.watch = nil, true
	p.mu.Unlock()
	if len(w) == 0 {
		return 0, 0
	}
	slices.Sort(w)
	return w[len(w)/2], w[len(w)*99/100]
}

// A feeder keeps a flow's queue filled for as long as it runs.
type feeder struct {
	link *Link
	flow uint32
	done chan struct{}
	over chan struct{}
}

func feed(l *Link, flow uint32) *feeder {
	f := &feeder{link: l, flow: flow, done: make(chan struct{}), over: make(chan struct{})}
	go func() {
		defer close(f.over)
		p := make([]byte, mtuBytes)
		p[0] = byte(flow)
		t := time.NewTicker(time.Millisecond)
		defer t.Stop()
		key := uint32(0)
		for {
			for f.queued() < f.link.Window(flow) && f.link.Send(flow, key+1, p) {
				key++
			}
			select {
			case <-t.C:
			case <-f.done:
				return
			}
		}
	}()
	return f
}

// queued is what of the flow waits in its queue; the window bounds that alone here, so it is always
// the link that limits.
func (f *feeder) queued() int {
	f.link.mu.Lock()
	defer f.link.mu.Unlock()
	if q := f.link.sched.flows[f.flow]; q != nil {
		return q.bytes
	}
	return 0
}

func (f *feeder) stop() {
	close(f.done)
	<-f.over
}
