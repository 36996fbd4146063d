package reliable

import (
	"encoding/binary"
	"sync"
)

// A stream may have datagrams beside it: they are sent once, may be lost and overtake each other, and
// end with the stream. Their flow is the stream's number with the highest bit set, which tells them
// from KCP's segments. One that fits a packet is
//
//	 0               4       5
//	+---------------+-------+------------------
//	| flow, LE      | 1     | the datagram
//	+---------------+-------+------------------
//
// and one that does not leaves in up to 64 parts of the same size, of which the last may be shorter:
//
//	 0               4       5       6       8      10
//	+---------------+-------+-------+-------+-------+------------------
//	| flow, LE      | parts | part  | id    | size  | this part
//	+---------------+-------+-------+-------+-------+------------------
//
// parts is 2 to 64, part counts from 0, id numbers the flow's datagrams of several parts, and size is that
// of the whole. If a part is lost, all of it is.
const (
	datagramBit   = 1 << 31
	wholeHeader   = 4 + 1
	partHeader    = 4 + 1 + 1 + 2 + 2
	mostParts     = 64
	smallDatagram = 2 << 10
	flowDatagrams = 2 << 20 // bytes of buffers that wait for the reader of one stream; more are dropped
	mostPartials  = 16      // datagrams of a session that lack parts; the oldest makes room

	// MaxDatagram is the largest datagram in bytes, that of UDP over IPv6 (RFC 8200).
	MaxDatagram = 65535 - 8
)

// A datagramBuffer holds one datagram.
type datagramBuffer struct {
	n int
	b []byte // of smallDatagram or MaxDatagram bytes
}

var (
	smallDatagrams = sync.Pool{New: func() any { return &datagramBuffer{b: make([]byte, smallDatagram)} }}
	largeDatagrams = sync.Pool{New: func() any { return &datagramBuffer{b: make([]byte, MaxDatagram)} }}
	packets        = sync.Pool{New: func() any { return new([maxPacket]byte) }}
)

func takeDatagram(n int) *datagramBuffer {
	p := &smallDatagrams
	if n > smallDatagram {
		p = &largeDatagrams
	}
	d := p.Get().(*datagramBuffer)
	d.n = n
	return d
}

func (d *datagramBuffer) release() {
	if len(d.b) == smallDatagram {
		smallDatagrams.Put(d)
		return
	}
	largeDatagrams.Put(d)
}

// An inbox holds the datagrams of one stream that wait for their reader.
type inbox struct {
	mu    sync.Mutex
	open  bool
	queue []*datagramBuffer // a ring of n, from head on
	head  int
	n     int
	bytes int           // of buffers
	came  chan struct{} // capacity 1
}

// put takes d over if there is room for it.
func (i *inbox) put(d *datagramBuffer, mem *account) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	size := len(d.b)
	if !i.open || i.bytes+size > flowDatagrams {
		return false
	}
	switch {
	case i.n == 0 && size <= smallDatagram:
		mem.force(int64(size)) // one answer has room whatever many streams hold
	case !mem.takeAll(int64(size), int64(i.bytes)):
		return false
	}
	if i.n == len(i.queue) {
		bigger := make([]*datagramBuffer, max(8, 2*i.n))
		for k := range i.n {
			bigger[k] = i.queue[(i.head+k)%len(i.queue)]
		}
		i.queue, i.head = bigger, 0
	}
	i.queue[(i.head+i.n)%len(i.queue)] = d
	i.n++
	i.bytes += size
	signal(i.came)
	return true
}

// take returns the oldest, which the caller releases, or nil.
func (i *inbox) take(mem *account) *datagramBuffer {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.n == 0 {
		return nil
	}
	d := i.queue[i.head]
	i.queue[i.head] = nil
	i.head = (i.head + 1) % len(i.queue)
	i.n--
	i.bytes -= len(d.b)
	mem.give(int64(len(d.b)))
	if i.n > 0 {
		signal(i.came)
	}
	return d
}

// close drops what is there and takes no more.
func (i *inbox) close(mem *account) {
	i.mu.Lock()
	i.open = false
	i.mu.Unlock()
	for d := i.take(mem); d != nil; d = i.take(mem) {
		d.release()
	}
}

// AcceptDatagrams lets datagrams of the peer in from now on; before, they are dropped. Up to 2 MiB wait for
// NextDatagram; what comes then is dropped.
func (s *Stream) AcceptDatagrams() {
	i := &inbox{open: true, came: make(chan struct{}, 1)}
	if !s.inbox.CompareAndSwap(nil, i) {
		return
	}
	if isClosed(s.done) || isClosed(s.readStop) {
		i.close(&s.session.account)
	}
}

// NextDatagram hands the next datagram to use, which must not keep it. It waits until one comes, the stream failed, or
// Close was called on this side: then it returns why. AcceptDatagrams comes first.
func (s *Stream) NextDatagram(use func(p []byte)) error {
	i := s.inbox.Load()
	if i == nil {
		panic("reliable: NextDatagram before AcceptDatagrams")
	}
	for {
		if d := i.take(&s.session.account); d != nil {
			use(d.b[:d.n])
			d.release()
			return nil
		}
		select {
		case <-i.came:
		case <-s.done:
			return s.failure()
		case <-s.readStop:
			return errStreamClosed
		case <-s.session.done:
			return s.session.Err()
		}
	}
}

// SendDatagram sends p once, and reports whether the link took it, which may still drop it where it would have to
// wait for too long. It did not take it if its queue for this stream is full, p is larger than MaxDatagram, or the stream has ended. It never blocks.
func (s *Stream) SendDatagram(p []byte) bool {
	if len(p) > MaxDatagram || isClosed(s.done) || isClosed(s.readStop) {
		return false
	}
	mtu := min(max(s.session.link.MTU(), minMTU), maxPacket)
	flow := s.id | datagramBit
	buf := packets.Get().(*[maxPacket]byte)
	defer packets.Put(buf)
	binary.LittleEndian.PutUint32(buf[:], flow)
	if wholeHeader+len(p) <= mtu {
		buf[4] = 1
		return s.session.link.SendFresh(flow, buf[:wholeHeader+copy(buf[wholeHeader:], p)])
	}
	parts := ceil(len(p), mtu-partHeader)
	size := ceil(len(p), parts) // so that all are about as long
	if parts > mostParts {
		return false // the MTU is never as small as that
	}
	buf[4] = byte(parts)
	binary.BigEndian.PutUint16(buf[6:], uint16(s.nextDatagram.Add(1)))
	binary.BigEndian.PutUint16(buf[8:], uint16(len(p)))
	for part := 0; len(p) > 0; part++ {
		n := min(size, len(p))
		buf[5] = byte(part)
		if !s.session.link.SendFresh(flow, buf[:partHeader+copy(buf[partHeader:], p[:n])]) {
			return false
		}
		p = p[n:]
	}
	return true
}

func ceil(a, b int) int { return (a + b - 1) / b }
