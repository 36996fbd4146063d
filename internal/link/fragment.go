package link

import (
	"encoding/binary"
	"time"
)

// A payload that is larger than the path carries now leaves as the plaintexts of two packets:
//
//	 0        1..4       5 ..
//	+--------+----------+-----------------------------+
//	| part   | id u32   | this half of the payload    |
//	+--------+----------+-----------------------------+
//
// part is 0 for the first half and 1 for the second, which is as long or one byte shorter. Ids count
// the payloads that were split. Fragments are for what was cut before the path's MTU fell: whoever
// makes payloads follows Link.MTU.
const (
	fragmentHeader = 1 + 4
	fragmentHalf   = (mostMTU + 1) / 2 // of a payload, at most
	mostPartials   = 256               // payloads of which one half is there; the oldest makes room
	partialFor     = 10 * time.Second
)

// split returns the size of the two halves of a payload of n bytes.
func split(n int) (first, second int) { return n - n/2, n / 2 }

// putFragment writes a fragment's header and its half to b.
func putFragment(b []byte, part byte, id uint32, half []byte) {
	b[0] = part
	binary.BigEndian.PutUint32(b[1:], id)
	copy(b[fragmentHeader:], half)
}

// parseFragment reads the plaintext of a FRAGMENT. half is a part of b.
func parseFragment(b []byte) (part byte, id uint32, half []byte, ok bool) {
	if len(b) <= fragmentHeader || len(b) > fragmentHeader+fragmentHalf || b[0] > 1 {
		return 0, 0, nil, false
	}
	return b[0], binary.BigEndian.Uint32(b[1:]), b[fragmentHeader:], true
}

// A partial is a payload of which one half came.
type partial struct {
	id   uint32
	part byte
	n    int
	at   time.Duration
	used bool
	half [fragmentHalf]byte
}

// A reassembler joins fragments. It holds 256 halves, 190 KB, from the first one until none came for
// partialFor. Guarded by Link.rmu.
type reassembler struct {
	partials []partial // empty, or mostPartials
	last     time.Duration
	spare    []byte // empty, for the next payload; nil while one is being handed over
}

// join takes in a fragment and, if its other half is there, returns the payload, otherwise nil. The
// payload is the caller's, who may give it back as spare. A half that comes again is the newer one; halves of different
// payloads cannot meet unless 2^32 were split in partialFor.
func (r *reassembler) join(part byte, id uint32, half []byte, now time.Duration) []byte {
	if r.partials == nil {
		r.partials = make([]partial, mostPartials)
	}
	r.last = now
	oldest := &r.partials[0]
	for i := range r.partials {
		p := &r.partials[i]
		if p.used && now-p.at > partialFor {
			p.used = false
		}
		if p.used && p.id == id {
			if p.part == part {
				oldest = p
				break
			}
			p.used = false
			first, second := p.half[:p.n], half
			if part == 0 {
				first, second = half, p.half[:p.n]
			}
			if d := len(first) - len(second); d != 0 && d != 1 {
				return nil
			}
			whole := r.spare
			if r.spare = nil; whole == nil {
				whole = make([]byte, 0, 2*fragmentHalf)
			}
			return append(append(whole, first...), second...)
		}
		if oldest.used && (!p.used || p.at < oldest.at) {
			oldest = p
		}
	}
	oldest.id, oldest.part, oldest.at, oldest.used = id, part, now, true
	oldest.n = copy(oldest.half[:], half)
	return nil
}

// tick gives the memory back when it was not used for a while. It returns when it is wanted again, or
// never.
func (r *reassembler) tick(now time.Duration) time.Duration {
	if r.partials == nil {
		return never
	}
	if at := r.last + partialFor; now < at {
		return at
	}
	r.partials, r.spare = nil, nil
	return never
}

// splitLocked makes two fragments of a packet that is on no list. p becomes the first and keeps the
// key; it returns the second, which the same flow pays for and which is repaired by itself.
func (l *Link) splitLocked(p *packet) *packet {
	first, second := split(p.n)
	q := l.sched.take()
	q.flow, q.key, q.state, q.typ = p.flow, p.key, p.state, typeFragment
	q.n = fragmentHeader + second
	if q.key != 0 {
		q.flow.pending.n++ // it is not found by its key
	}
	putFragment(q.b[:], 1, l.splits, p.b[first:p.n])
	copy(p.b[fragmentHeader:], p.b[:first])
	putFragment(p.b[:], 0, l.splits, nil)
	p.typ, p.n = typeFragment, fragmentHeader+first
	l.splits++
	return q
}

// receiveFragment takes in the plaintext of a FRAGMENT.
func (l *Link) receiveFragment(b []byte, now time.Duration) {
	part, id, half, ok := parseFragment(b)
	if !ok {
		return
	}
	l.rmu.Lock()
	whole := l.halves.join(part, id, half, now)
	l.rmu.Unlock()
	if whole == nil {
		return
	}
	if f := l.handler.Load(); f != nil {
		(*f)(whole)
	}
	l.rmu.Lock()
	l.halves.spare = whole[:0]
	l.rmu.Unlock()
}
