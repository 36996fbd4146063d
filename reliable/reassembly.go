package reliable

import (
	"encoding/binary"
	"sync"
	"time"
)

// partialFor is how long a datagram may lack parts.
const partialFor = 5 * time.Second

// A fragment is a datagram, or one part of one, as it came.
type fragment struct {
	flow        uint32
	parts, part int // 1 and 0 for a whole datagram
	id          uint16
	size        int // of the whole
	data        []byte
}

// isDatagram tells a datagram's packet from one of KCP's segments.
func isDatagram(p []byte) bool {
	return len(p) >= wholeHeader && binary.LittleEndian.Uint32(p)&datagramBit != 0
}

// parseFragment reads a packet of which isDatagram is true. data is a part of p. There is one way to
// cut a datagram of some size into so many parts; anything else is not ok.
func parseFragment(p []byte) (f fragment, ok bool) {
	f.flow, f.parts = binary.LittleEndian.Uint32(p), int(p[4])
	if f.parts == 1 {
		f.data = p[wholeHeader:]
		f.size = len(f.data)
		return f, true
	}
	if f.parts == 0 || f.parts > mostParts || len(p) <= partHeader {
		return f, false
	}
	f.part, f.id, f.size = int(p[5]), binary.BigEndian.Uint16(p[6:]), int(binary.BigEndian.Uint16(p[8:]))
	f.data = p[partHeader:]
	return f, f.size <= MaxDatagram && f.part < f.parts && f.size > 0 &&
		ceil(f.size, f.step()) == f.parts && len(f.data) == min(f.step(), f.size-f.part*f.step())
}

// step is the size of each part but the last.
func (f *fragment) step() int { return ceil(f.size, f.parts) }

// A partial is a datagram that lacks parts.
type partial struct {
	fragment        // of the first that came, without its data
	have     uint64 // bit n: part n is here
	at       time.Time
	into     *datagramBuffer // nil: this partial is free
}

// datagrams is what a session holds of datagrams.
type datagrams struct {
	mu       sync.Mutex
	partials []partial // empty, or mostPartials
}

// join takes in a part and returns the datagram once all are there, which the caller owns; otherwise nil.
func (d *datagrams) join(f fragment, now time.Time) *datagramBuffer {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.partials == nil {
		d.partials = make([]partial, mostPartials)
	}
	var p *partial
	oldest := &d.partials[0]
	for i := range d.partials {
		q := &d.partials[i]
		if q.into != nil && now.Sub(q.at) > partialFor {
			q.drop()
		}
		if q.into != nil && q.flow == f.flow && q.id == f.id {
			p = q
		}
		if oldest.into != nil && (q.into == nil || q.at.Before(oldest.at)) {
			oldest = q
		}
	}
	if p != nil && (p.size != f.size || p.parts != f.parts) {
		p.drop() // another datagram has got the same id: 65,536 later, in five seconds
		oldest, p = p, nil
	}
	if p == nil {
		p = oldest
		p.drop()
		*p = partial{fragment: f, at: now, into: takeDatagram(f.size)}
		p.data = nil
	}
	copy(p.into.b[f.part*f.step():], f.data)
	p.have |= uint64(1) << f.part
	if p.have != uint64(1)<<f.parts-1 {
		return nil
	}
	whole := p.into
	*p = partial{}
	return whole
}

func (p *partial) drop() {
	if p.into != nil {
		p.into.release()
	}
	*p = partial{}
}

// forget drops what is there of a flow.
func (d *datagrams) forget(flow uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.partials {
		if p := &d.partials[i]; p.into != nil && p.flow == flow {
			p.drop()
		}
	}
}

// deliverDatagram takes in a packet of which isDatagram is true. What belongs to no stream that wants it is
// dropped.
func (s *Session) deliverDatagram(p []byte) {
	f, ok := parseFragment(p)
	if !ok {
		return
	}
	s.mu.RLock()
	st := s.streams[f.flow&^datagramBit]
	s.mu.RUnlock()
	if st == nil {
		return
	}
	in := st.inbox.Load()
	if in == nil || !in.takes() {
		return
	}
	var d *datagramBuffer
	if f.parts == 1 {
		d = takeDatagram(f.size)
		copy(d.b, f.data)
	} else if d = s.datagrams.join(f, time.Now()); d == nil {
		return
	}
	if !in.put(d, &s.account) {
		d.release()
	}
}

// takes reports whether datagrams are wanted still.
func (i *inbox) takes() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.open
}

// dropDatagrams ends the datagrams of a stream that has ended on this side.
func (s *Stream) dropDatagrams() {
	if in := s.inbox.Load(); in != nil {
		in.close(&s.session.account)
		s.session.datagrams.forget(s.id | datagramBit)
	}
}
