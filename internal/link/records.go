package link

import "time"

const (
	leastRecords = 1 << 10
	mostRecords  = 1 << 16
)

// A record is what is known of a sent packet when feedback names it.
type record struct {
	counter     uint64
	packets     uint64 // sent up to and with this one
	bytes       uint64
	sentAt      time.Duration
	delivered   uint64 // at the sampling point before this one left
	deliveredAt time.Duration
	firstAt     time.Duration // when the packet was sent whose arrival made the sampling point
	size        uint16        // bytes
	limited     bool          // the sender had little to send
	packet      *packet       // what it carries and the peer has not reported, linked by mate
}

// records is a ring of records by counter, large enough for what is in flight.
type records struct {
	ring    []record
	packets uint64
	bytes   uint64
	last    uint64 // counter of the last packet
}

// add records a packet; records from acked on are still wanted. It returns the record that had to make
// room.
func (s *records) add(counter uint64, size int, acked uint64, r record) (old record) {
	if s.ring == nil {
		s.ring = make([]record, leastRecords)
	}
	for len(s.ring) < mostRecords && s.ring[s.slot(counter)].counter >= acked {
		small := s.ring
		s.ring = make([]record, 2*len(small))
		for _, r := range small {
			if r.counter != 0 {
				s.ring[s.slot(r.counter)] = r
			}
		}
	}
	s.packets++
	s.bytes += uint64(size)
	s.last = counter
	r.counter, r.packets, r.bytes, r.size = counter, s.packets, s.bytes, uint16(size)
	old = s.ring[s.slot(counter)]
	s.ring[s.slot(counter)] = r
	return old
}

// grow makes the packet that was added last larger.
func (s *records) grow(counter uint64, by int) {
	s.bytes += uint64(by)
	r := s.at(counter)
	r.bytes += uint64(by)
	r.size += uint16(by)
}

func (s *records) slot(counter uint64) int { return int(counter & uint64(len(s.ring)-1)) }

func (s *records) find(counter uint64) (record, bool) {
	if r := s.at(counter); r != nil {
		return *r, true
	}
	return record{}, false
}

// at returns the record of a packet, valid until the next add, or nil.
func (s *records) at(counter uint64) *record {
	if s.ring == nil || counter == 0 {
		return nil
	}
	if r := &s.ring[s.slot(counter)]; r.counter == counter {
		return r
	}
	return nil
}
