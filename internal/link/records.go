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
	limited     bool          // the sender had little to send
}

// records is a ring of records by counter, large enough for what is in flight.
type records struct {
	ring    []record
	packets uint64
	bytes   uint64
	last    uint64 // counter of the last packet
}

// add records a packet; records from acked on are still wanted.
func (s *records) add(counter uint64, size int, acked uint64, r record) {
	if s.ring == nil {
		s.ring = make([]record, leastRecords)
	}
	for len(s.ring) < mostRecords && s.ring[s.slot(counter)].counter >= acked {
		old := s.ring
		s.ring = make([]record, 2*len(old))
		for _, r := range old {
			if r.counter != 0 {
				s.ring[s.slot(r.counter)] = r
			}
		}
	}
	s.packets++
	s.bytes += uint64(size)
	s.last = counter
	r.counter, r.packets, r.bytes = counter, s.packets, s.bytes
	s.ring[s.slot(counter)] = r
}

func (s *records) slot(counter uint64) int { return int(counter & uint64(len(s.ring)-1)) }

func (s *records) find(counter uint64) (record, bool) {
	if s.ring == nil || counter == 0 {
		return record{}, false
	}
	r := s.ring[s.slot(counter)]
	return r, r.counter == counter
}
