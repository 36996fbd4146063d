package reliable

import "sync"

// Blocks have one of two sizes: a stream with little to read holds little.
const (
	smallBlock = 4 << 10
	largeBlock = 16 << 10
)

type block struct{ b []byte }

var (
	smallBlocks = sync.Pool{New: func() any { return &block{make([]byte, smallBlock)} }}
	largeBlocks = sync.Pool{New: func() any { return &block{make([]byte, largeBlock)} }}
)

func (b *block) release() {
	if len(b.b) == smallBlock {
		smallBlocks.Put(b)
		return
	}
	largeBlocks.Put(b)
}

// A receiveBuffer is a queue of bytes in blocks that come and go as they are needed: an empty one
// holds none.
type receiveBuffer struct {
	blocks []*block
	start  int // of the first block's bytes
	end    int // of the last block's bytes
	bytes  int
	lent   bool // peek's slices are in use: discard leaves their blocks alone
}

// write adds a copy of p.
func (q *receiveBuffer) write(p []byte) {
	for len(p) > 0 {
		if n := len(q.blocks); n == 0 || q.end == len(q.blocks[n-1].b) {
			pool := &smallBlocks
			if q.bytes >= 2*smallBlock {
				pool = &largeBlocks
			}
			q.blocks = append(q.blocks, pool.Get().(*block))
			q.end = 0
		}
		n := copy(q.blocks[len(q.blocks)-1].b[q.end:], p)
		q.end += n
		q.bytes += n
		p = p[n:]
	}
}

// peek appends the first bytes to bufs, as the slices that they are in, most bytes or a few more.
func (q *receiveBuffer) peek(bufs [][]byte, most int) [][]byte {
	left := q.bytes
	for i, b := range q.blocks {
		if left == 0 || most <= 0 {
			break
		}
		part := b.b
		if i == 0 {
			part = part[q.start:]
		}
		part = part[:min(len(part), left)]
		bufs = append(bufs, part)
		left -= len(part)
		most -= len(part)
	}
	return bufs
}

// skip drops the first n bytes; of an empty buffer none.
func (q *receiveBuffer) skip(n int) {
	used := 0
	for n > 0 && q.bytes > 0 {
		b := q.blocks[used]
		m := min(n, len(b.b)-q.start, q.bytes)
		n -= m
		q.start += m
		q.bytes -= m
		if q.start == len(b.b) || q.bytes == 0 {
			b.release()
			used++
			q.start = 0
		}
	}
	rest := copy(q.blocks, q.blocks[used:])
	clear(q.blocks[rest:])
	q.blocks = q.blocks[:rest]
}

// read moves bytes to p and returns how many.
func (q *receiveBuffer) read(p []byte) (n int) {
	left := q.bytes
	for i, b := range q.blocks {
		part := b.b
		if i == 0 {
			part = part[q.start:]
		}
		m := copy(p[n:], part[:min(len(part), left)])
		n += m
		left -= m
		if n == len(p) || left == 0 {
			break
		}
	}
	q.skip(n)
	return n
}

// discard drops all bytes.
func (q *receiveBuffer) discard() {
	if !q.lent {
		for _, b := range q.blocks {
			b.release()
		}
	}
	*q = receiveBuffer{lent: q.lent}
}
