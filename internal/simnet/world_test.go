package simnet

import (
	"context"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/internal/link"
	"adit/reliable"
)

// A world is two peers on a network: streams over links over sockets.
type world struct {
	net      *Network
	up, down *Pipe
	la, lb   *link.Link
	a, b     *reliable.Session
	arrivals arrivals // of the bulk copies, at b
	wg       sync.WaitGroup
}

// newWorld joins two peers by pipes.
func newWorld(t *testing.T, up, down Config, seed uint64) *world {
	t.Helper()
	w := &world{net: New(seed)}
	w.up, w.down = w.net.Pipe(up), w.net.Pipe(down)
	w.join(t, w.up, w.down, addrA, addrB)
	return w
}

// join makes the two peers.
func (w *world) join(t *testing.T, up, down *Pipe, addrA, addrB netip.AddrPort) {
	t.Helper()
	ma, mb := link.NewMux(), link.NewMux()
	ia, erra := ma.Reserve()
	ib, errb := mb.Reserve()
	if erra != nil || errb != nil {
		t.Fatal(erra, errb)
	}
	ca := link.Config{
		Socket: w.net.Socket(addrA, up, ma.Deliver), LocalIndex: ia, RemoteIndex: ib,
		SendKey: [32]byte{1}, RecvKey: [32]byte{2}, AES: true, DontFragment: true, ReceiveBuffer: 8 << 20,
	}
	cb := ca
	cb.Socket, cb.LocalIndex, cb.RemoteIndex = w.net.Socket(addrB, down, mb.Deliver), ib, ia
	cb.SendKey, cb.RecvKey = ca.RecvKey, ca.SendKey
	var err error
	if w.la, err = ma.Open(ca); err != nil {
		t.Fatal(err)
	}
	if w.lb, err = mb.Open(cb); err != nil {
		t.Fatal(err)
	}
	if _, err = w.la.Probe(context.Background(), addrB); err != nil {
		t.Fatal(err)
	}
	if _, err = w.lb.Probe(context.Background(), addrA); err != nil {
		t.Fatal(err)
	}
	w.la.Use(addrB)
	w.lb.Use(addrA)
	w.a = reliable.NewSession(w.la, reliable.Config{Initiator: true})
	w.b = reliable.NewSession(w.lb, reliable.Config{})
	w.wg.Go(w.serve)
}

// serve echoes what comes on streams, or counts it if that is what the header asks for.
func (w *world) serve() {
	for {
		st, err := w.b.Accept(context.Background())
		if err != nil {
			return
		}
		if st.Accept() != nil {
			continue
		}
		w.wg.Go(func() {
			defer st.Close()
			if string(st.Header()) == "bulk" {
				w.arrivals.read(st)
				return
			}
			_, _ = io.Copy(st, st) // until the session ends
		})
	}
}

// copy starts a bulk copy that lasts until the world ends.
func (w *world) copy(t *testing.T) {
	t.Helper()
	st, err := w.a.Open(context.Background(), []byte("bulk"))
	if err != nil {
		t.Fatal(err)
	}
	w.wg.Go(func() {
		p := make([]byte, 64<<10)
		for {
			if _, err := st.Write(p); err != nil {
				return
			}
		}
	})
}

// echo starts an echo that lasts until the world ends, with pauses around gap.
func (w *world) echo(t *testing.T, gap time.Duration, seed uint64) *echo {
	t.Helper()
	st, err := w.a.Open(context.Background(), []byte("echo"))
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{stream: st, gap: gap, rand: rand.New(rand.NewPCG(seed, 0))}
	w.wg.Go(e.run)
	return e
}

// A typist writes a keystroke, as large as ssh makes it, at times and waits for none of them to come back.
type typist struct{ typed, echoed atomic.Int64 } // bytes

// types starts a typist who goes on until the world ends, with pauses around gap.
func (w *world) types(t *testing.T, gap time.Duration, seed uint64) *typist {
	t.Helper()
	st, err := w.a.Open(context.Background(), []byte("echo"))
	if err != nil {
		t.Fatal(err)
	}
	x := new(typist)
	rng := rand.New(rand.NewPCG(seed, 1))
	w.wg.Go(func() {
		for key := make([]byte, 36); ; time.Sleep(time.Duration(rng.Int64N(int64(2 * gap)))) {
			n, err := st.Write(key)
			if err != nil {
				return
			}
			x.typed.Add(int64(n))
		}
	})
	w.wg.Go(func() {
		for b := make([]byte, 4096); ; {
			n, err := st.Read(b)
			x.echoed.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	return x
}

// trace prints what happened in each interval, until d has passed.
func (w *world) trace(t *testing.T, interval, d time.Duration) {
	began := time.Now()
	old, oldUp, oldTotal := w.la.Stats(), w.up.Counts(), w.arrivals.sum()
	for time.Since(began) < d && w.la.Err() == nil {
		time.Sleep(interval)
		s, up, total := w.la.Stats(), w.up.Counts(), w.arrivals.sum()
		c := up.Sub(oldUp)
		mbit := func(bytes float64) float64 { return bytes * 8 / 1e6 / interval.Seconds() }
		t.Logf("%6dms got %6.1f sent %6.1f Mbit/s, rate %6.1f rtt %v/%v window %d queue %d flow %d; dropped %d lost %d resent %d spurious %d refused %d, waits %v",
			time.Since(began).Milliseconds(), mbit(float64(total-oldTotal)), mbit(float64(c.SentBytes)), s.Rate*8/1e6,
			s.RTT.Round(time.Millisecond), s.MinRTT.Round(time.Millisecond), s.Window, s.Queue, w.la.Window(1),
			c.Dropped, c.Lost, s.Resent-old.Resent, s.Spurious-old.Spurious, s.Dropped-old.Dropped,
			c.Waits.Quantile(0.5).Round(time.Millisecond))
		old, oldUp, oldTotal = s, up, total
	}
}

// close ends everything that runs in the world.
func (w *world) close() {
	w.leave()
	w.net.Close()
	w.wg.Wait()
}

// end ends what runs in a world that shares the network of another.
func (w *world) end() {
	w.leave()
	w.wg.Wait()
}

func (w *world) leave() {
	w.a.CloseWithError(nil)
	w.b.CloseWithError(nil)
	w.a.Close()
	w.b.Close()
	w.la.Close("")
	w.lb.Close("")
}

// An echo sends 64 bytes and waits for them to come back, again and again.
type echo struct {
	stream *reliable.Stream
	gap    time.Duration
	rand   *rand.Rand

	mu    sync.Mutex
	since time.Time // of the one under way; zero if none is
	took  []time.Duration
}

func (e *echo) run() {
	p := make([]byte, 64)
	for {
		time.Sleep(time.Duration(e.rand.Int64N(int64(2 * e.gap))))
		e.mu.Lock()
		e.since = time.Now()
		e.mu.Unlock()
		if _, err := e.stream.Write(p); err != nil {
			return
		}
		if _, err := io.ReadFull(e.stream, p); err != nil {
			return
		}
		e.mu.Lock()
		e.took = append(e.took, time.Since(e.since))
		e.since = time.Time{}
		e.mu.Unlock()
	}
}

// take returns the median and the 99th percentile of how long echoes took since the last call, the one
// that is under way included if it takes longer than the median so far.
func (e *echo) take() (p50, p99 time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	took := e.took
	e.took = nil
	slices.Sort(took)
	if !e.since.IsZero() {
		if d := time.Since(e.since); len(took) == 0 || d > took[len(took)/2] {
			took = append(took, d)
			slices.Sort(took)
		}
	}
	if len(took) == 0 {
		return 0, 0
	}
	return took[len(took)/2], took[min(len(took)*99/100, len(took)-1)]
}

// arrivals is when a copy's bytes came.
type arrivals struct {
	mu    sync.Mutex
	total int
	last  time.Time
	gap   time.Duration // the longest time in which nothing came, since mark
	start time.Time     // of the bins
	bin   time.Duration
	bins  []int // bytes in each bin since start; nil if nobody asked
}

func (a *arrivals) read(r io.Reader) {
	p := make([]byte, 256<<10)
	for {
		n, err := r.Read(p)
		if err != nil {
			return
		}
		now := time.Now()
		a.mu.Lock()
		a.total += n
		a.gap = max(a.gap, now.Sub(a.last))
		a.last = now
		if a.bin > 0 {
			for i := int(now.Sub(a.start) / a.bin); len(a.bins) <= i; {
				a.bins = append(a.bins, 0)
			}
			a.bins[len(a.bins)-1] += n
		}
		a.mu.Unlock()
	}
}

// begin counts in bins from now on.
func (a *arrivals) begin(bin time.Duration) {
	a.mu.Lock()
	a.start, a.bin, a.bins = time.Now(), bin, nil
	a.last = a.start
	a.mu.Unlock()
}

// mark begins another interval and returns what came so far.
func (a *arrivals) mark() (total int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gap, a.last = 0, time.Now()
	return a.total
}

// sum returns what came so far.
func (a *arrivals) sum() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.total
}

// took returns what came so far, and the longest gap since mark.
func (a *arrivals) took() (total int, gap time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.total, max(a.gap, time.Since(a.last))
}

// reached returns how long after begin the rate over four bins was at least rate, in bytes a second, for
// the first time; 0 if never.
func (a *arrivals) reached(rate float64) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	need := rate * 4 * a.bin.Seconds()
	for i := 3; i < len(a.bins); i++ {
		if float64(a.bins[i]+a.bins[i-1]+a.bins[i-2]+a.bins[i-3]) >= need {
			return time.Duration(i+1) * a.bin
		}
	}
	return 0
}
