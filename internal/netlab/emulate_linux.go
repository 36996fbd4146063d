package netlab

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// batch is how many packets are read before what is due gets written again: small enough to keep
	// deliveries on time, large enough to skip most polls.
	batch = 32

	// maxFlight bounds the memory of a link without a rate; what exceeds it counts as queue drops.
	maxFlight = 64 << 20

	frameSize = 2048 // every device here has an MTU of 1500
)

// An emulation is a link between two devices, one thread for each direction.
type emulation struct {
	ways [2]*way
	wake int // an eventfd that ends both threads
	wg   sync.WaitGroup
	once sync.Once
}

// emulate makes a device at each end. Packets pass once start was called.
func emulate(a, b end, tap bool, c LinkConfig) (*emulation, error) {
	fa, err := openTun(a.ns, a.dev, tap)
	if err != nil {
		return nil, err
	}
	fb, err := openTun(b.ns, b.dev, tap)
	if err != nil {
		unix.Close(fa)
		return nil, err
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(fa)
		unix.Close(fb)
		return nil, err
	}
	e := &emulation{wake: wake}
	for i, fds := range [2][2]int{{fa, fb}, {fb, fa}} {
		w := &way{
			LinkConfig: c, from: fds[0], to: fds[1], wake: wake, tap: tap,
			limit: int64(c.queue()), rnd: rand.New(rand.NewPCG(uint64(i), 0x6164_6974)),
		}
		e.ways[i] = w
	}
	return e, nil
}

// start begins to carry packets, when both devices are up. What the kernel itself sent while only one
// was (multicast reports, mostly) is neither carried nor counted.
func (e *emulation) start() {
	start := time.Now()
	for _, w := range e.ways {
		w.start = start
		buf := make([]byte, frameSize)
		for n := 1; n > 0; {
			n, _ = unix.Read(w.from, buf)
		}
		e.wg.Go(w.carry)
	}
}

func (e *emulation) stats(side int) LinkStats {
	c := &e.ways[side].counters
	return LinkStats{
		Packets: c.packets.Load(), Bytes: c.bytes.Load(), Lost: c.lost.Load(),
		QueueDropped: c.queue.Load(), Failed: c.failed.Load(), Late: time.Duration(c.late.Load()),
	}
}

func (e *emulation) stop() {
	e.once.Do(func() {
		one := binary.NativeEndian.AppendUint64(nil, 1)
		for {
			if _, err := unix.Write(e.wake, one); err != unix.EINTR {
				break
			}
		}
		e.wg.Wait()
		unix.Close(e.ways[0].from)
		unix.Close(e.ways[1].from)
		unix.Close(e.wake)
	})
}

// A packet on its way.
type packet struct {
	due  int64 // nanoseconds since the link came up
	data []byte
}

// A way is one direction of a link. One thread does all of it, so only the counters are shared.
type way struct {
	LinkConfig
	from, to, wake int
	tap            bool
	limit          int64 // queue bytes
	start          time.Time
	rnd            *rand.Rand

	flight   []packet // by due, from head on; what is before has arrived
	head     int
	inOrder  int64    // when the last packet is due that nothing overtook
	held     int64    // bytes in flight
	free     [][]byte // recycled buffers
	linkFree float64  // when the rate will have sent all that waits

	counters struct{ packets, bytes, lost, queue, failed, late atomic.Int64 }
}

func (w *way) now() int64 { return time.Since(w.start).Nanoseconds() }

// carry is the loop of one direction: write what is due, read what has come, sleep until either can
// happen. The runtime's own timers round up to a millisecond; ppoll does not.
func (w *way) carry() {
	// The timer slack belongs to the thread, which must not end with this goroutine: a process that it
	// once started would die with it (see dieWithParent).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	defer unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // the default again
	poll := []unix.PollFd{{Fd: int32(w.wake), Events: unix.POLLIN}, {Fd: int32(w.from), Events: unix.POLLIN}}
	for {
		w.deliver()
		if w.read() == batch {
			continue // there may be more
		}
		var timeout *unix.Timespec
		if w.head < len(w.flight) {
			ts := unix.NsecToTimespec(max(0, w.flight[w.head].due-w.now()))
			timeout = &ts
		}
		poll[0].Revents, poll[1].Revents = 0, 0
		if _, err := unix.Ppoll(poll, timeout, nil); err != nil && err != unix.EINTR || poll[0].Revents != 0 {
			return
		}
	}
}

func (w *way) read() int {
	now := w.now()
	for n := range batch {
		buf := w.buffer()
		size, err := unix.Read(w.from, buf)
		if err != nil || size <= 0 {
			w.free = append(w.free, buf)
			return n
		}
		w.accept(buf[:size], now)
	}
	return batch
}

// accept decides the fate of a packet when it enters the link.
func (w *way) accept(data []byte, now int64) {
	if w.tap && housekeeping(data) {
		// A real uplink is routed: the far end's address is known long before the first packet, and
		// nobody asks who listens to which group.
		w.write(packet{now, data})
		return
	}
	w.counters.packets.Add(1)
	w.counters.bytes.Add(int64(len(data)))
	due := now
	if w.RateBits > 0 {
		perByte := 8e9 / float64(w.RateBits)
		waiting := max(0, (w.linkFree-float64(now))/perByte)
		if int64(waiting)+int64(len(data)) > w.limit {
			w.counters.queue.Add(1)
			w.recycle(data)
			return
		}
		w.linkFree = max(w.linkFree, float64(now)) + float64(len(data))*perByte
		due = int64(w.linkFree)
	}
	if w.Loss > 0 && w.rnd.Float64() < w.Loss {
		w.counters.lost.Add(1)
		w.recycle(data)
		return
	}
	if w.held+int64(len(data)) > maxFlight {
		w.counters.queue.Add(1)
		w.recycle(data)
		return
	}
	w.held += int64(len(data))
	w.fly(data, due+w.Delay.Nanoseconds())
}

// fly takes a packet on its way, to arrive at due but for jitter and reordering.
func (w *way) fly(data []byte, due int64) {
	if w.Jitter > 0 {
		due += w.rnd.Int64N(w.Jitter.Nanoseconds())
	}
	due = max(due, w.inOrder)
	if w.Reorder > 0 && w.rnd.Float64() < w.Reorder {
		due += max(w.Delay/8, time.Millisecond).Nanoseconds()
	} else {
		w.inOrder = due
	}
	at := len(w.flight)
	for at > w.head && w.flight[at-1].due > due {
		at--
	}
	w.flight = slices.Insert(w.flight, at, packet{due, data})
}

func (w *way) deliver() {
	for now := w.now(); w.head < len(w.flight) && w.flight[w.head].due <= now; w.head++ {
		p := w.flight[w.head]
		w.held -= int64(len(p.data))
		if late := now - p.due; late > w.counters.late.Load() {
			w.counters.late.Store(late)
		}
		w.write(p)
	}
	if w.head > len(w.flight)/2 {
		w.flight = w.flight[:copy(w.flight, w.flight[w.head:])]
		w.head = 0
	}
}

func (w *way) write(p packet) {
	if _, err := unix.Write(w.to, p.data); err != nil {
		w.counters.failed.Add(1)
	}
	w.recycle(p.data)
}

func (w *way) buffer() []byte {
	if n := len(w.free); n > 0 {
		b := w.free[n-1]
		w.free = w.free[:n-1]
		return b
	}
	return make([]byte, frameSize)
}

func (w *way) recycle(data []byte) { w.free = append(w.free, data[:cap(data)]) }

// housekeeping recognises an Ethernet frame by which the two ends of one cable find each other: ARP,
// ICMPv6 neighbour discovery (types 133 to 137) and multicast listener discovery (130 to 132 and 143,
// behind a hop-by-hop header: RFC 3810 section 5).
func housekeeping(frame []byte) bool {
	if len(frame) < 14 {
		return false
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_ARP:
		return true
	case unix.ETH_P_IPV6:
		if len(frame) < 14+40 {
			return false
		}
		next, body := frame[14+6], frame[14+40:]
		if next == 0 && len(body) > 8 && body[1] == 0 {
			next, body = body[0], body[8:]
		}
		return next == unix.IPPROTO_ICMPV6 && len(body) > 0 && (body[0] >= 130 && body[0] <= 137 || body[0] == 143)
	}
	return false
}
