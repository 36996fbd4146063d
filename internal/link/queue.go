package link

import "time"

const (
	flowBytes    = 256 << 10 // what a flow may queue, or its window if that is more
	flowBytesLow = 16 << 10  // the same when all flows together hold more than totalLow
	totalLow     = 64 << 20
	totalBytes   = 96 << 20    // all flows together, never more
	quantumBytes = 2 * mostMTU // of a flow's turn, or what the pacer lets out in turnTime if that is more
	turnTime     = 200 * time.Microsecond
	freePackets  = 8192 // kept for reuse; the rest goes back to the garbage collector
	sparePart    = 32   // of those that an epoch had no use for, as much goes: half in five seconds

	// freshPackets is how many fresh payloads a flow may queue, or its window if that is more. At 50 Mbit/s it is
	// three times what a link over 40 ms needs to find out that the path carries them.
	freshPackets = 2048
	freshTotal   = 8 * freshPackets // of all flows together: 26 MB

	// epochTime is how long an idle flow is remembered, and over which it counts as heavy.
	epochTime  = 250 * time.Millisecond
	heavyBytes = 16 << 10
)

// A packet is one payload. It belongs to the scheduler until pop, then to the caller until release;
// one with a key then to the repairs until the peer reported it.
type packet struct {
	next, prev *packet
	flow       *flow
	key        uint32 // 0: sent once
	n          int    // bytes of b
	typ        byte
	state      packetState
	at         [2]uint64     // the counters under which it left last, the older one first; 0: none
	mates      [2]*packet    // others that left under the same counters
	sentAt     time.Duration // when it left under at[1]; of a fresh one when it was queued
	fresh      bool          // dropped if it waits for too long
	b          [mostMTU]byte
}

// A flow is a first-in first-out queue. What of it was lost goes before the queue, in the flow's own turn: the loss of
// one flow delays no other. It is forgotten when it stays empty for an epoch and the peer
// reported all of it that has keys.
type flow struct {
	id         uint32
	head, tail *packet
	again      packetList // lost more than once, in the order of their sending
	lost       packetList // lost for the first time, likewise
	bytes      int        // queued, what was lost not included
	packets    int
	deficit    int
	next       *flow
	listed     bool // on one of the scheduler's lists
	sent       int  // bytes queued in this epoch
	heavy      bool // more than heavyBytes in this epoch or the last
	pending    pending
}

func (f *flow) push(p *packet) {
	p.next = nil
	if f.tail == nil {
		f.head = p
	} else {
		f.tail.next = p
	}
	f.tail = p
	f.bytes += p.n
	f.packets++
}

func (f *flow) pop() *packet {
	p := f.head
	f.head = p.next
	if f.head == nil {
		f.tail = nil
	}
	p.next = nil
	f.bytes -= p.n
	f.packets--
	return p
}

// empty reports whether the flow has nothing to send.
func (f *flow) empty() bool { return f.head == nil && f.lost.head == nil && f.again.head == nil }

type flowList struct{ head, tail *flow }

func (l *flowList) add(f *flow) {
	f.next = nil
	if l.tail == nil {
		l.head = f
	} else {
		l.tail.next = f
	}
	l.tail = f
}

func (l *flowList) remove() *flow {
	f := l.head
	l.head = f.next
	if l.head == nil {
		l.tail = nil
	}
	f.next = nil
	return f
}

// A scheduler holds the queues and picks the next packet: flow 0 first, then deficit round robin by
// bytes, where a flow that was silent goes ahead once (the sparse flows of RFC 8290 §4.2).
// Guarded by Link.mu.
type scheduler struct {
	urgent   flow // flow 0
	flows    map[uint32]*flow
	fresh    flowList // had nothing queued when their packet came
	old      flowList
	bytes    int           // queued, flow 0 included
	lost     int           // bytes that were lost and wait to be sent again
	quantum  int           // of a turn after the first; quantumBytes if 0
	heavy    int           // flows with heavy set
	patience time.Duration // how long fresh payloads may wait
	freshes  int           // payloads of that kind that were not released
	epochEnd time.Duration
	free     *packet
	frees    int
	spare    int // the least that frees was in this epoch
	dropped  uint64
}

// push copies p into its flow's queue, which may hold limit bytes; false if there is no room. A key
// that is pending already makes p a double, which is not needed.
func (s *scheduler) push(id, key uint32, p []byte, limit int) bool {
	_, ok := s.add(id, key, p, limit)
	return ok
}

// pushFresh is push for what is of no use when it is late. Such payloads may be tiny, so they are counted, too.
func (s *scheduler) pushFresh(id uint32, p []byte, limit int, now time.Duration) bool {
	if f := s.flows[id]; s.freshes >= freshTotal || f != nil && f.packets >= max(freshPackets, limit/mtuBytes) {
		s.dropped++
		return false
	}
	k, ok := s.add(id, 0, p, max(limit, freshPackets*mostMTU))
	if ok {
		k.fresh, k.sentAt = true, now
		s.freshes++
	}
	return ok
}

// add is push that returns the packet too, unless that is a double.
func (s *scheduler) add(id, key uint32, p []byte, limit int) (*packet, bool) {
	if s.bytes > totalLow {
		limit = flowBytesLow
	}
	f := &s.urgent
	if id != 0 {
		if f = s.flows[id]; f == nil {
			if s.bytes+len(p) > totalBytes {
				s.dropped++
				return nil, false
			}
			if s.flows == nil {
				s.flows = make(map[uint32]*flow)
			}
			f = &flow{id: id}
			s.flows[id] = f
		}
	}
	if key != 0 && f.pending.has(key) {
		return nil, true
	}
	if f.bytes+len(p) > limit || s.bytes+len(p) > totalBytes {
		s.dropped++
		return nil, false
	}
	k := s.take()
	k.n = copy(k.b[:], p)
	k.typ = typeData
	k.flow, k.key, k.state = f, key, stateQueued
	if key != 0 {
		f.pending.add(k)
	}
	f.push(k)
	s.bytes += k.n
	if id == 0 {
		return k, true
	}
	if f.sent += k.n; f.sent > heavyBytes && !f.heavy {
		f.heavy = true
		s.heavy++
	}
	s.list(f)
	return k, true
}

// list gives a flow with something to send a turn.
func (s *scheduler) list(f *flow) {
	if f.listed || f == &s.urgent {
		return
	}
	f.listed = true
	f.deficit = quantumBytes
	s.fresh.add(f)
}

// lose takes in a packet that was lost, for the first time or again.
func (s *scheduler) lose(p *packet) {
	if p.state == stateAgain {
		p.flow.again.add(p)
	} else {
		p.flow.lost.add(p)
	}
	s.lost += p.n
	s.list(p.flow)
}

// found takes out a packet that was lost.
func (s *scheduler) found(p *packet) {
	if p.state == stateAgain {
		p.flow.again.remove(p)
	} else {
		p.flow.lost.remove(p)
	}
	s.lost -= p.n
}

// next takes what a flow that is not empty sends next.
func (s *scheduler) next(f *flow) *packet {
	p := f.again.head
	if p == nil {
		p = f.lost.head
	}
	if p != nil {
		s.found(p)
		return p
	}
	p = f.pop()
	s.bytes -= p.n
	return p
}

// take returns a packet that is on no list.
func (s *scheduler) take() *packet {
	k := s.free
	if k == nil {
		return new(packet)
	}
	s.free, k.next = k.next, nil
	s.frees--
	s.spare = min(s.spare, s.frees)
	return k
}

// trim gives up some of the packets that an epoch had no use for. What an outage piled up would be kept for
// as long as the link lives.
func (s *scheduler) trim() {
	for range (s.spare + sparePart - 1) / sparePart {
		s.free, s.free.next = s.free.next, nil
		s.frees--
	}
	s.spare = s.frees
}

// pop takes the next packet, or nil. Fresh ones that have waited for too long are dropped on the way.
func (s *scheduler) pop(now time.Duration) *packet {
	if !s.urgent.empty() {
		return s.popUrgent()
	}
	for {
		list := &s.fresh
		if list.head == nil {
			if list = &s.old; list.head == nil {
				return nil
			}
		}
		f := list.head
		switch {
		case f.deficit <= 0:
			f.deficit += max(s.quantum, quantumBytes)
			s.old.add(list.remove())
		case f.empty() && list == &s.fresh && s.old.head != nil:
			// A flow must not be new again at once by emptying its queue (RFC 8290 §4.2).
			s.old.add(list.remove())
		case f.empty():
			list.remove().listed = false
		default:
			p := s.next(f)
			if p.fresh && now-p.sentAt > s.patience {
				s.dropped++
				s.release(p)
				continue
			}
			f.deficit -= p.n
			return p
		}
	}
}

// popUrgent takes the next packet of flow 0, or nil.
func (s *scheduler) popUrgent() *packet {
	if s.urgent.empty() {
		return nil
	}
	return s.next(&s.urgent)
}

// release gives a packet back that is on no list.
func (s *scheduler) release(p *packet) {
	if p.key != 0 {
		p.flow.pending.remove(p)
	}
	if p.fresh {
		s.freshes--
	}
	p.flow, p.prev, p.next, p.at, p.mates, p.fresh = nil, nil, nil, [2]uint64{}, [2]*packet{}, false
	if s.frees < freePackets {
		p.next, s.free = s.free, p
		s.frees++
	}
}

// drop empties a flow's queue.
func (s *scheduler) drop(f *flow) {
	for f.head != nil {
		p := f.pop()
		s.bytes -= p.n
		s.release(p)
	}
}

// limit is how many bytes a flow with the given window may queue: a flow that was idle may hand over
// its whole window at once.
func limit(window int) int { return max(flowBytes, window+window/4) }

// active is among how many flows id shares the link.
func (s *scheduler) active(id uint32) int {
	n := s.heavy
	if f := s.flows[id]; f == nil || !f.heavy {
		n++
	}
	return n
}

// tick ends the epoch when its time has come: it forgets flows that were silent. It returns when it
// is wanted again, and 0 if nothing is left to forget.
func (s *scheduler) tick(now time.Duration) time.Duration {
	if len(s.flows) == 0 && s.frees == 0 {
		s.epochEnd = 0
		return 0
	}
	switch {
	case s.epochEnd == 0:
		s.epochEnd = now + epochTime
	case now >= s.epochEnd:
		s.epochEnd = now + epochTime
		s.trim()
		if s.bytes+s.lost == 0 {
			s.pop(now) // no flow needs a turn
		}
		for id, f := range s.flows {
			if h := f.sent > heavyBytes || f.heavy && f.head != nil; h != f.heavy {
				f.heavy = h
				s.heavy--
			}
			if f.sent == 0 && f.head == nil && !f.listed && f.pending.n == 0 {
				delete(s.flows, id)
			}
			f.sent = 0
		}
		if len(s.flows) == 0 {
			s.flows, s.free, s.frees, s.spare = nil, nil, 0, 0 // an idle link holds nothing
			if s.urgent.pending.n == 0 {
				s.urgent.pending.ring = nil
			}
			s.epochEnd = 0
			return 0
		}
	}
	return s.epochEnd
}
