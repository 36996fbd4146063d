package link

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// A payload that is larger than the path carries now leaves as the plaintexts of two packets, of three or four on
// a narrow path. So does a control message:
//
//	 0        1..4       5 ..
//	+--------+----------+-----------------------------+
//	|CNNN00II| id u32   | this part of it             |
//	+--------+----------+-----------------------------+
//
// II is the number of the part, NNN how many there are less two, C is set for a control message. All parts are as
// long as the first or one byte shorter, shorter ones last. Ids count what was split. Fragments are for what was
// cut before the path's MTU fell: whoever makes payloads follows Link.MTU.
const (
	fragmentHeader = 1 + 4
	fragmentMost   = (mostMTU + 1) / 2 // of a payload, at most
	mostParts      = 4
	mostPartials   = 256 // parts that wait for others; the oldest makes room
	partialFor     = 10 * time.Second
	controlPart    = 0x80
)

// parts returns in how many a payload of n bytes is cut for packets of size bytes.
func parts(n, size int) int {
	room := size - overheadBytes - fragmentHeader
	return min(max((n+room-1)/room, 2), mostParts)
}

// cut returns where part i of n bytes in count parts begins and ends.
func cut(n, count, i int) (from, to int) {
	short, longer := n/count, n%count
	from = i*short + min(i, longer)
	to = from + short
	if i < longer {
		to++
	}
	return from, to
}

// A fragment is the plaintext of a FRAGMENT. The part belongs to whoever has the packet.
type fragment struct {
	control  bool
	i, count int
	id       uint32
	part     []byte
}

// put writes the fragment to b and returns its size.
func (f *fragment) put(b []byte) int {
	b[0] = byte(f.count-2)<<4 | byte(f.i)
	if f.control {
		b[0] |= controlPart
	}
	binary.BigEndian.PutUint32(b[1:], f.id)
	return fragmentHeader + copy(b[fragmentHeader:], f.part)
}

func parseFragment(b []byte) (f fragment, ok bool) {
	if len(b) <= fragmentHeader || len(b) > fragmentHeader+fragmentMost || b[0]&0x0c != 0 {
		return f, false
	}
	f = fragment{b[0]&controlPart != 0, int(b[0] & 3), int(b[0]>>4&7) + 2, binary.BigEndian.Uint32(b[1:]), b[fragmentHeader:]}
	return f, f.count <= mostParts && f.i < f.count
}

// A partial is one part of a payload that came before the last.
type partial struct {
	id      uint32
	control bool
	i       int
	count   int
	n       int
	at      time.Duration
	used    bool
	b       [fragmentMost]byte
}

// A reassembler joins fragments. It holds 256 parts, 190 KB, from the first one until none came for
// partialFor. Guarded by Link.rmu.
type reassembler struct {
	partials []partial // empty, or mostPartials
	last     time.Duration
	spare    []byte // empty, for the next payload; nil while one is being handed over
}

// join takes in a fragment and, if all others are there, returns the payload, otherwise nil. The payload is the
// caller's, who may give it back as spare. A part that comes again is the newer one; parts of different
// payloads cannot meet unless 2^32 were split in partialFor.
func (r *reassembler) join(f fragment, now time.Duration) []byte {
	if r.partials == nil {
		r.partials = make([]partial, mostPartials)
	}
	r.last = now
	var others [mostParts]*partial
	have := 1
	oldest := &r.partials[0]
	for i := range r.partials {
		p := &r.partials[i]
		if p.used && now-p.at > partialFor {
			p.used = false
		}
		if p.used && p.id == f.id && p.control == f.control && p.count == f.count {
			if p.i == f.i {
				p.used = false
			} else if others[p.i] == nil {
				others[p.i] = p
				have++
			}
		}
		if oldest.used && (!p.used || p.at < oldest.at) {
			oldest = p
		}
	}
	if have < f.count {
		oldest.id, oldest.control, oldest.i, oldest.count, oldest.at, oldest.used = f.id, f.control, f.i, f.count, now, true
		oldest.n = copy(oldest.b[:], f.part)
		return nil
	}
	whole := r.spare
	if r.spare = nil; whole == nil {
		whole = make([]byte, 0, mostParts*fragmentMost)
	}
	var sizes [mostParts]int
	for i := range f.count {
		part := f.part
		if i != f.i {
			part = others[i].b[:others[i].n]
			others[i].used = false
		}
		sizes[i] = len(part)
		whole = append(whole, part...)
	}
	for i, n := range sizes[:f.count] {
		if from, to := cut(len(whole), f.count, i); n != to-from {
			r.spare = whole[:0]
			return nil // they cannot belong together
		}
	}
	return whole
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

// splitLocked makes fragments of a packet that is on no list. p becomes the first and keeps the key; it returns
// the others, which the same flow pays for and which are repaired by themselves.
func (l *Link) splitLocked(p *packet) (others [mostParts - 1]*packet) {
	count := parts(p.n, l.pmtu.size)
	var buf [mostMTU]byte
	whole := append(buf[:0], p.b[:p.n]...)
	f := fragment{count: count, id: l.splits}
	l.splits++
	for f.i = range count {
		from, to := cut(len(whole), count, f.i)
		f.part = whole[from:to]
		q := p
		if f.i > 0 {
			q = l.sched.take()
			q.flow, q.key, q.state = p.flow, p.key, p.state
			if q.key != 0 {
				q.flow.pending.n++ // it is not found by its key
			}
			others[f.i-1] = q
		}
		q.typ, q.n = typeFragment, f.put(q.b[:])
	}
	return others
}

// addMessageLocked appends a control message, as fragments if the path is too narrow for it.
func (l *Link) addMessageLocked(b *batch, m *message, to netip.AddrPort, now time.Duration) {
	put := func(p []byte) {
		p[0] = kindMessage
		binary.BigEndian.PutUint64(p[1:], m.id)
		copy(p[shortBytes:], m.data)
	}
	n := shortBytes + len(m.data)
	if n+overheadBytes <= l.pmtu.size {
		put(l.addLocked(b, typeControl, n, to, now, true))
		return
	}
	var buf [mostMTU]byte
	whole := buf[:n]
	put(whole)
	f := fragment{control: true, count: parts(n, l.pmtu.size), id: l.splits}
	l.splits++
	for f.i = range f.count {
		begin, end := cut(n, f.count, f.i)
		f.part = whole[begin:end]
		f.put(l.addLocked(b, typeFragment, fragmentHeader+end-begin, to, now, true))
	}
}

// receiveFragment takes in the plaintext of a FRAGMENT.
func (l *Link) receiveFragment(b []byte, from netip.AddrPort, now time.Duration) {
	f, ok := parseFragment(b)
	if !ok {
		return
	}
	l.rmu.Lock()
	whole := l.halves.join(f, now)
	l.rmu.Unlock()
	switch {
	case whole == nil:
		return
	case !f.control:
		if h := l.handler.Load(); h != nil {
			(*h)(whole)
		}
	case whole[0] == kindMessage:
		l.receiveControl(whole, 0, from, now)
	}
	l.rmu.Lock()
	l.halves.spare = whole[:0]
	l.rmu.Unlock()
}
