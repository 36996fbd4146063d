package reliable

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	tortureStreams = flag.Int("torture", 300, "how many streams the torture of contents plays")
	tortureSeed    = flag.Uint64("torture-seed", 0, "the one seed to play again; 0 plays new ones")
)

// TestTorture plays random streams over random links in simulated time: both sides write random amounts and end them at
// random points in random ways. It uses exported names only.
//
// What a stream promises is what TCP does between two programs on one machine, where a kernel has acknowledged at once
// what was written:
//
//  1. What is read is what was written, from the first byte on, without a gap and nothing twice.
//  2. io.EOF comes after the last byte written, and only if the writer ended its direction (CloseWrite, Close).
//  3. A direction that its writer ended is read to io.EOF, whatever happened to the other direction.
//  4. After Reset all that Write had accepted before it is read, and then the reset with its code, not io.EOF. If the
//     writer had ended its direction before, either may follow the last byte.
//  5. Who closes or resets a stream reads it no more: then 3 and 4 do not hold for what is sent to it.
//  6. Every call returns, and both sides forget every stream.
func TestTorture(t *testing.T) {
	const each = 20 // streams of one session
	first := rand.Uint64() | 1
	n := (*tortureStreams + each - 1) / each
	if *tortureSeed != 0 {
		first, n = *tortureSeed, 1
	}
	wrong := 0
	for i := range uint64(n) {
		seed := first + i
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { torture(t, seed, each) })
		})
		if t.Failed() {
			if wrong++; wrong == 3 {
				t.Fatal("more of the same are left out")
			}
		}
	}
}

// An act is what a side does to a stream of its own accord.
type act int

const (
	nothing act = iota
	finishing
	closing
	resetting
)

// A part is what one side is to do with a stream.
type part struct {
	size   int // bytes to write
	chunk  int // bytes of the largest write
	pause  time.Duration
	last   act // when all is written
	after  act // a while later
	rest   time.Duration
	stopAt int // bytes to read before stop; -1 is all
	stop   act
	lag    time.Duration // before the first read
	gap    time.Duration // between reads
	buffer int
	code   uint32 // of its resets
	refuse bool   // the acceptor refuses the stream
}

// newPart draws one.
func newPart(r *rand.Rand) part {
	sometimes := func(of int, d time.Duration) time.Duration {
		if r.IntN(of) > 0 {
			return 0
		}
		return time.Duration(r.Int64N(int64(d))) + 1
	}
	p := part{
		size: r.IntN(1 << r.IntN(19)), chunk: 1 + r.IntN(1<<r.IntN(17)), pause: sometimes(3, 20*time.Millisecond),
		last: []act{finishing, finishing, closing, resetting, resetting}[r.IntN(5)], rest: sometimes(2, 300*time.Millisecond),
		stopAt: -1, lag: sometimes(4, time.Second), gap: sometimes(6, 5*time.Millisecond), buffer: 1 + r.IntN(1<<r.IntN(17)),
		code: r.Uint32N(1 << 16), refuse: r.IntN(40) == 0,
	}
	if p.last == finishing {
		p.after = []act{nothing, nothing, closing, resetting}[r.IntN(4)]
	}
	if r.IntN(4) == 0 {
		p.stopAt, p.stop = r.IntN(1<<r.IntN(19)), []act{closing, resetting}[r.IntN(2)]
	}
	return p
}

// A player is one side of one stream, and what became of it.
type player struct {
	part
	salt byte // what it writes depends on it
	from byte // and what it reads on the other's

	mu      sync.Mutex
	written int
	sure    int  // of these, before a reset
	ended   bool // its direction, in good order
	reset   bool
	left    bool // it reads no more, of its own accord
	gotten  int
	garbled int // 1 + the place of the first wrong byte
	end     error
	hung    bool
}

func letter(salt byte, at int) byte { return byte(at) ^ byte(at>>8)*31 ^ salt }

// do acts. What Write accepts afterwards is nobody's business: it is told to stop.
func (p *player) do(st *Stream, a act) {
	p.mu.Lock()
	switch a {
	case finishing:
		p.ended = p.ended || !p.reset
	case closing:
		p.ended, p.left = p.ended || !p.reset, true
	case resetting:
		if !p.reset {
			p.sure = p.written
		}
		p.reset, p.left = true, true
	}
	p.mu.Unlock()
	switch a {
	case finishing:
		_ = st.CloseWrite() // it may have failed
	case closing:
		_ = st.Close()
	case resetting:
		_ = st.Reset(p.code)
	}
}

func (p *player) write(st *Stream) {
	b := make([]byte, p.chunk)
	for p.written < p.size {
		n := min(p.chunk, p.size-p.written)
		for i := range n {
			b[i] = letter(p.salt, p.written+i)
		}
		m, err := st.Write(b[:n])
		p.mu.Lock()
		p.written += m
		p.hung = p.hung || errors.Is(err, os.ErrDeadlineExceeded)
		p.mu.Unlock()
		if err != nil {
			break
		}
		time.Sleep(p.pause)
	}
	p.do(st, p.last)
	if p.after != nothing {
		time.Sleep(p.rest)
		p.do(st, p.after)
	}
}

func (p *player) read(st *Stream) {
	time.Sleep(p.lag)
	b := make([]byte, p.buffer)
	for {
		room := len(b)
		if p.stopAt >= 0 {
			if room = min(room, p.stopAt-p.gotten); room == 0 {
				p.do(st, p.stop)
				return
			}
		}
		n, err := st.Read(b[:room])
		for i := range n {
			if b[i] != letter(p.from, p.gotten+i) && p.garbled == 0 {
				p.garbled = 1 + p.gotten + i
			}
		}
		p.gotten += n
		if err != nil {
			p.mu.Lock()
			p.hung = p.hung || errors.Is(err, os.ErrDeadlineExceeded)
			p.end = err
			p.mu.Unlock()
			return
		}
		time.Sleep(p.gap)
	}
}

// play returns when the side has done all it will.
func (p *player) play(st *Stream) {
	_ = st.SetDeadline(time.Now().Add(24 * time.Hour)) // it is open, or every call fails
	var both sync.WaitGroup
	both.Go(func() { p.write(st) })
	both.Go(func() { p.read(st) })
	both.Wait()
	if p.end == nil || errors.Is(p.end, io.EOF) {
		_ = st.Close() // both directions are over; what was written goes on
	}
}

// wrong says what of the promise to reader does not hold, or nothing.
func wrong(writer, reader *player) string {
	var reset *StreamError
	switch {
	case reader.hung || writer.hung:
		return "a call did not return within a day"
	case reader.garbled > 0:
		return fmt.Sprintf("byte %d is another", reader.garbled-1)
	case reader.gotten > writer.written:
		return fmt.Sprintf("%d bytes came of %d", reader.gotten, writer.written)
	case reader.left:
		return ""
	case errors.Is(reader.end, io.EOF) && !writer.ended:
		return fmt.Sprintf("a reset looks like an end, after %d of %d bytes", reader.gotten, writer.written)
	case reader.gotten < writer.written && !(writer.reset && reader.gotten >= writer.sure):
		return fmt.Sprintf("%d bytes of %d came, then %v (ended %v, reset %v)", reader.gotten, writer.written, reader.end, writer.ended, writer.reset)
	case errors.Is(reader.end, io.EOF):
		return ""
	case !writer.reset:
		return fmt.Sprintf("an end looks like %v", reader.end)
	case !errors.As(reader.end, &reset) || !reset.Remote || reset.Code != writer.code:
		return fmt.Sprintf("reset with %d, seen as %v", writer.code, reader.end)
	}
	return ""
}

func torture(t *testing.T, seed uint64, streams int) {
	r := rand.New(rand.NewPCG(seed, 1))
	a, b := newRoughSessions(t, r)
	ctx, cancel := context.WithTimeout(t.Context(), 48*time.Hour)
	defer cancel()
	type pair struct{ opener, acceptor *player }
	pairs := make([]pair, streams)
	waits := make([]time.Duration, streams)
	for i := range pairs {
		o, c := &player{part: newPart(r), salt: byte(2 * i)}, &player{part: newPart(r), salt: byte(2*i + 1)}
		o.from, c.from, o.refuse = c.salt, o.salt, false
		pairs[i] = pair{o, c}
		waits[i] = time.Duration(r.Int64N(int64(2 * time.Second)))
	}
	var openers, acceptors, accepted sync.WaitGroup
	accept := func(s *Session, n int) {
		for range n {
			st, err := s.Accept(ctx)
			if err != nil {
				return // a stream that was reset at once is not handed out
			}
			accepted.Go(func() {
				p := pairs[binary.BigEndian.Uint32(st.Header())].acceptor
				if p.refuse {
					p.reset, p.left = true, true
					_ = st.Refuse(p.code, "")
					return
				}
				_ = st.Accept() // it may have been reset
				p.play(st)
			})
		}
	}
	for _, s := range []*Session{a, b} {
		acceptors.Go(func() { accept(s, streams) })
	}
	for i := range pairs {
		s := a
		if i%2 == 1 {
			s = b
		}
		openers.Go(func() {
			time.Sleep(waits[i])
			st, err := s.Open(ctx, binary.BigEndian.AppendUint32(nil, uint32(i)))
			if err != nil {
				t.Error(err)
				return
			}
			pairs[i].opener.play(st)
		})
	}
	openers.Wait()
	for began := time.Now(); a.NumStreams()+b.NumStreams() > 0 && time.Since(began) < 24*time.Hour; {
		time.Sleep(time.Second) // what was closed may still be on its way
	}
	if n, m := a.NumStreams(), b.NumStreams(); n+m > 0 {
		t.Errorf("%d and %d streams are left over", n, m)
	}
	cancel()
	acceptors.Wait()
	accepted.Wait()
	for i, p := range pairs {
		if p.acceptor.end == nil && !p.acceptor.left {
			if !p.opener.reset {
				t.Errorf("stream %d was not accepted\nopener %+v\nacceptor %+v", i, p.opener.part, p.acceptor.part)
			}
			continue // reset before it was handed out: nobody there sees anything
		}
		for way, what := range []string{wrong(p.opener, p.acceptor), wrong(p.acceptor, p.opener)} {
			if what != "" {
				t.Errorf("stream %d, %s: %s\nopener %+v\nacceptor %+v", i, []string{"to the acceptor", "to the opener"}[way], what, p.opener.part, p.acceptor.part)
			}
		}
	}
}

// A roughLink is one end of a link that delays, doubles, reorders and loses packets by its own generator. As a real one it
// repairs those with a key, until Forget.
type roughLink struct {
	peer   *roughLink
	trip   time.Duration // one way
	jitter time.Duration
	loss   float64
	double float64

	in      sync.Mutex // one packet at a time
	handler func([]byte)

	mu      sync.Mutex
	rand    *rand.Rand
	epoch   map[uint32]int // counts Forget
	pending map[uint32]map[uint32]bool
}

func (l *roughLink) Receive(f func([]byte))               { l.in.Lock(); l.handler = f; l.in.Unlock() }
func (l *roughLink) MTU() int                             { return 1200 }
func (l *roughLink) Window(uint32) int                    { return 256 << 10 }
func (l *roughLink) RTT() time.Duration                   { return 2 * l.trip }
func (l *roughLink) SendFresh(flow uint32, p []byte) bool { return l.Send(flow, 0, p) }
func (l *roughLink) Pending(flow uint32) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending[flow])
}
func (l *roughLink) Forget(flow uint32) {
	l.mu.Lock()
	l.epoch[flow]++
	delete(l.pending, flow)
	l.mu.Unlock()
}

func (l *roughLink) Send(flow, key uint32, p []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if key != 0 {
		if l.pending[flow][key] {
			return true
		}
		if l.pending[flow] == nil {
			l.pending[flow] = make(map[uint32]bool)
		}
		l.pending[flow][key] = true
	}
	late := l.trip
	lost := false
	for l.rand.Float64() < l.loss {
		if key == 0 {
			return true
		}
		lost = true
		late += 2*l.trip + l.jitter
	}
	p = append([]byte(nil), p...)
	epoch := l.epoch[flow]
	arrive := func() {
		l.mu.Lock()
		forgotten := lost && l.epoch[flow] != epoch // nobody sends it again
		l.mu.Unlock()
		if forgotten {
			return
		}
		l.peer.in.Lock()
		if l.peer.handler != nil {
			l.peer.handler(p)
		}
		l.peer.in.Unlock()
	}
	if l.jitter > 0 {
		late += time.Duration(l.rand.Int64N(int64(l.jitter)))
	}
	time.AfterFunc(late, arrive)
	if l.rand.Float64() < l.double {
		time.AfterFunc(late+l.jitter, arrive)
	}
	if key != 0 {
		time.AfterFunc(late+l.trip, func() {
			l.mu.Lock()
			if l.epoch[flow] == epoch {
				delete(l.pending[flow], key)
			}
			l.mu.Unlock()
		})
	}
	return true
}

// newRoughSessions joins two sessions by a link drawn from r.
func newRoughSessions(t *testing.T, r *rand.Rand) (a, b *Session) {
	var links [2]*roughLink
	trip := time.Duration(1+r.IntN(100)) * time.Millisecond / 2
	jitter := time.Duration(r.Int64N(int64(trip)))
	loss, double := []float64{0, 0.01, 0.1, 0.3}[r.IntN(4)], []float64{0, 0.02}[r.IntN(2)]
	for i := range links {
		links[i] = &roughLink{trip: trip, jitter: jitter, loss: loss, double: double, rand: rand.New(rand.NewPCG(r.Uint64(), 0)),
			epoch: make(map[uint32]int), pending: make(map[uint32]map[uint32]bool)}
	}
	links[0].peer, links[1].peer = links[1], links[0]
	a, b = NewSession(links[0], Config{Initiator: true}), NewSession(links[1], Config{})
	t.Cleanup(func() {
		for _, s := range []*Session{a, b} {
			s.CloseWithError(nil)
			_ = s.Close() // never fails
		}
		time.Sleep(time.Minute) // for what is on its way
	})
	return a, b
}
