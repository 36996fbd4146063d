package reliable

// maxGaps bounds the numbers that an idSet remembers as not seen yet, and how far one may jump.
const maxGaps = 4096

// maxID is the largest number of a stream: the bit above marks datagrams. A session ends its life long before.
const maxID = datagramBit - 16

// An idSet tells the numbers of streams that the peer may still open from those that are used up.
// Packets overtake each other, so a number may be seen before smaller ones: these are remembered as
// gaps. All others up to the largest one seen are used up.
type idSet struct {
	next uint32              // the smallest number never seen nor skipped; of the peer's parity
	gaps map[uint32]struct{} // numbers below next that were skipped
}

func newIDSet(first uint32) idSet {
	return idSet{next: first, gaps: make(map[uint32]struct{})}
}

// fresh reports whether id, of the peer's parity, may open a stream.
func (s *idSet) fresh(id uint32) bool {
	if id >= s.next {
		return id <= maxID && int((id-s.next)/2)+len(s.gaps) <= maxGaps
	}
	_, ok := s.gaps[id]
	return ok
}

// use marks a fresh id as used up.
func (s *idSet) use(id uint32) {
	if id < s.next {
		delete(s.gaps, id)
		return
	}
	for ; s.next < id; s.next += 2 {
		s.gaps[s.next] = struct{}{}
	}
	s.next = id + 2
}
