package reliable

import "sync"

const (
	blockBytes = 16 << 10

	// kcp hands out a segment at a time; one that does not fit what is left of a block would be copied
	// twice.
	minRoom = maxPacket
)

type block [blockBytes]byte

var blocks = sync.Pool{New: func() any { return new(block) }}

// A receiveBuffer is a queue of bytes in blocks that come and go as they are needed. One goroutine
// fills it, in place: room, then filled. The caller's lock is held for all methods, but not while the
// room is written to.
type receiveBuffer struct {
	full  []piece // in order; the last one may be still filling
	bytes int
	tail  *block // where room is; also the last of full unless that is nothing yet
	used  int    // bytes of tail
}

type piece struct {
	b          *block
	start, end int
}

// room returns where to write next.
func (q *receiveBuffer) room() []byte {
	if q.tail == nil || blockBytes-q.used < minRoom {
		if q.tail != nil && !q.holds(q.tail) {
			blocks.Put(q.tail)
		}
		q.tail, q.used = blocks.Get().(*block), 0
	}
	return q.tail[q.used:]
}

func (q *receiveBuffer) holds(b *block) bool {
	return len(q.full) > 0 && q.full[len(q.full)-1].b == b
}

// filled publishes the first n bytes of the room, from skip on.
func (q *receiveBuffer) filled(skip, n int) {
	start := q.used + skip
	q.used += n
	q.bytes += n - skip
	if n == skip {
		return
	}
	if last := len(q.full) - 1; q.holds(q.tail) && q.full[last].end == start {
		q.full[last].end = q.used
		return
	}
	q.full = append(q.full, piece{q.tail, start, q.used})
}

// read moves bytes to p.
func (q *receiveBuffer) read(p []byte) (n int) {
	i := 0
	for ; i < len(q.full) && n < len(p); i++ {
		f := &q.full[i]
		m := copy(p[n:], f.b[f.start:f.end])
		f.start += m
		n += m
		if f.start < f.end {
			break
		}
		if f.b != q.tail {
			blocks.Put(f.b)
		}
	}
	q.full = q.full[:copy(q.full, q.full[i:])]
	q.bytes -= n
	return n
}

// discard drops all bytes. The room stays with whoever fills it.
func (q *receiveBuffer) discard() {
	for _, f := range q.full {
		if f.b != q.tail {
			blocks.Put(f.b)
		}
	}
	q.full, q.bytes = nil, 0
}

// release gives back the block of the room, when nobody fills it any more.
func (q *receiveBuffer) release() {
	if q.tail != nil && !q.holds(q.tail) {
		blocks.Put(q.tail)
	}
	q.tail = nil
}
