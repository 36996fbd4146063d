package reliable

import "sync"

const blockBytes = 16 << 10

type block [blockBytes]byte

var blocks = sync.Pool{New: func() any { return new(block) }}

// A receiveBuffer is a queue of bytes in blocks that come and go as they are needed: an empty one
// holds none.
type receiveBuffer struct {
	blocks []*block
	start  int // of the first block's bytes
	end    int // of the last block's bytes
	bytes  int
}

// write adds a copy of p.
func (q *receiveBuffer) write(p []byte) {
	q.bytes += len(p)
	for len(p) > 0 {
		if len(q.blocks) == 0 || q.end == blockBytes {
			q.blocks = append(q.blocks, blocks.Get().(*block))
			q.end = 0
		}
		n := copy(q.blocks[len(q.blocks)-1][q.end:], p)
		q.end += n
		p = p[n:]
	}
}

// read moves bytes to p and returns how many.
func (q *receiveBuffer) read(p []byte) (n int) {
	used := 0
	for n < len(p) && q.bytes > 0 {
		m := copy(p[n:], q.blocks[used][q.start:min(blockBytes, q.start+q.bytes)])
		n += m
		q.start += m
		q.bytes -= m
		if q.start == blockBytes || q.bytes == 0 {
			blocks.Put(q.blocks[used])
			used++
			q.start = 0
		}
	}
	rest := copy(q.blocks, q.blocks[used:])
	clear(q.blocks[rest:])
	q.blocks = q.blocks[:rest]
	return n
}

// discard drops all bytes.
func (q *receiveBuffer) discard() {
	for _, b := range q.blocks {
		blocks.Put(b)
	}
	*q = receiveBuffer{}
}
