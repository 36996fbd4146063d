package rendezvous

import (
	"bytes"
	"context"
	"crypto/subtle"
	"strconv"
	"sync"
	"time"

	"adit/internal/fair"
)

const (
	creator = 0
	joiner  = 1

	// roomBytes is what a room without messages is counted as. It is generous: both maps, its place in the pool,
	// the strings and the channel are within it.
	roomBytes = 1024
	// messageBytes is what a message is counted as, besides its content.
	messageBytes = 64
	// roomShare is what counts as one room when the store is full: rooms of honest peers, some larger and some
	// smaller, are equal, and one that was filled up counts as many.
	roomShare = 32 << 10
)

// Memory is a Store in this process's memory.
//
// A used nameplate stays taken until its room's time is over, and takes some 64 bytes instead of a room: whoever comes
// late with a used code shall hear so, and not end up in another's room.
type Memory struct {
	limits Limits
	now    func() time.Time

	mu     sync.Mutex
	byName map[string]*room
	byID   map[string]*room
	used   map[uint64]struct{} // nameplates
	pool   fair.Pool[*room]
	bytes  int
	ends   map[int64]*ending // by the second, which saves a sorted list
	swept  int64             // the second up to which all endings are dealt with
}

// An ending is what is forgotten in one second.
type ending struct {
	rooms map[*room]struct{}
	used  []uint64
}

type room struct {
	Room
	member  *fair.Member[*room] // nil once it is forgotten
	due     *ending
	bytes   int
	side    [2]side
	changed chan struct{} // closed and replaced at each change
}

type side struct {
	token    string // empty if the side has not come
	messages [][]byte
	left     bool
}

// NewMemory returns an empty store that keeps at most limits.Rooms rooms, limits.Messages messages a
// side and limits.Bytes bytes in all. A zero limit means its default; now may be nil.
func NewMemory(limits Limits, now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	return &Memory{
		limits: limits.withDefaults(),
		now:    now,
		byName: make(map[string]*room),
		byID:   make(map[string]*room),
		used:   make(map[uint64]struct{}),
		ends:   make(map[int64]*ending),
		swept:  now().Unix(),
	}
}

// Create implements Store. It takes the same time however many rooms there are.
func (m *Memory) Create(_ context.Context, r Room) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expireLocked()
	if r.Nameplate != "" {
		_, open := m.byName[r.Nameplate]
		if _, used := m.used[plateNumber(r.Nameplate)]; open || used {
			return ErrNameplateTaken
		}
	}
	size := roomBytes
	if r.First != nil {
		size += len(r.First) + messageBytes
	}
	if !m.makeRoomLocked(r, 1, size, nil) {
		return ErrFull
	}
	r.Expires = wholeSecond(r.Expires)
	n := &room{Room: r, changed: make(chan struct{})}
	n.side[creator].token, n.side[joiner].token = r.Token, r.Joiner
	if r.First != nil {
		n.side[creator].messages = [][]byte{r.First}
	}
	n.First = nil
	n.member, n.bytes = m.pool.Add(r.From, 1, n), size
	m.bytes += size
	n.due = m.endingLocked(r.Expires)
	n.due.rooms[n] = struct{}{}
	m.byID[r.ID] = n
	if r.Nameplate != "" {
		m.byName[r.Nameplate] = n
	}
	return nil
}

// makeRoomLocked makes room for size bytes of a room, new or known, whose share grows by weight. Networks that hold the most give up their oldest
// rooms; it returns false if that is the room's own.
func (m *Memory) makeRoomLocked(r Room, weight, size int, known *room) bool {
	for known == nil && m.pool.Len() >= m.limits.Rooms || m.bytes+size > m.limits.Bytes {
		victim, own := m.pool.Victim(r.From, weight)
		if victim == nil || own {
			return false
		}
		m.dropLocked(victim.Value)
	}
	return true
}

// Join implements Store.
func (m *Memory) Join(_ context.Context, nameplate, token string) (Ticket, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expireLocked()
	r, ok := m.byName[nameplate]
	if !ok {
		if _, used := m.used[plateNumber(nameplate)]; used {
			return Ticket{}, ErrRoomTaken
		}
		return Ticket{}, ErrNoRoom
	}
	j := &r.side[joiner]
	if j.token != "" && (j.left || !equal(j.token, token)) {
		return Ticket{}, ErrRoomTaken
	}
	j.token = token
	t := Ticket{ID: r.ID, Token: token, Expires: r.Expires}
	if c := r.side[creator].messages; len(c) > 0 {
		t.First = c[0]
	}
	return t, nil
}

// Put implements Store.
func (m *Memory) Put(_ context.Context, id, token string, seq int, message []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, mine, err := m.findLocked(id, token)
	if err != nil {
		return err
	}
	s, peer := &r.side[mine], &r.side[1-mine]
	size := len(message) + messageBytes
	more := (r.bytes+size)/roomShare - r.bytes/roomShare
	switch {
	case seq >= 0 && seq < len(s.messages):
		if !bytes.Equal(s.messages[seq], message) {
			return ErrConflict
		}
		return nil
	case peer.left:
		return ErrPeerGone
	case seq >= m.limits.Messages:
		return ErrTooMany
	case seq != len(s.messages):
		return ErrConflict
	case !m.makeRoomLocked(r.Room, more, size, r):
		return ErrFull
	}
	m.pool.Grow(r.member, more)
	r.bytes += size
	m.bytes += size
	s.messages = append(s.messages, message)
	r.wake()
	return nil
}

// Get implements Store.
func (m *Memory) Get(_ context.Context, id, token string, seq int) ([]byte, <-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, mine, err := m.findLocked(id, token)
	if err != nil {
		return nil, nil, err
	}
	peer := &r.side[1-mine]
	switch {
	case seq >= 0 && seq < len(peer.messages):
		return peer.messages[seq], nil, nil
	case peer.left:
		return nil, nil, ErrPeerGone
	}
	return nil, r.changed, nil
}

// Place implements Store.
func (m *Memory) Place(_ context.Context, id, token string) (Place, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, mine, err := m.findLocked(id, token)
	if err != nil {
		return Place{}, err
	}
	if r.side[1-mine].left {
		return Place{}, ErrPeerGone
	}
	return Place{Side: mine, Both: r.side[joiner].token != "", Expires: r.Expires}, nil
}

// Leave implements Store.
func (m *Memory) Leave(_ context.Context, id, token string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, mine, err := m.findLocked(id, token)
	if err != nil {
		return err
	}
	r.side[mine].left = true
	switch {
	case r.side[joiner].token == "":
		m.dropLocked(r)
	case r.side[1-mine].left:
		m.dropLocked(r)
		if r.Nameplate != "" && len(m.used) < m.limits.Used {
			n := plateNumber(r.Nameplate)
			m.used[n] = struct{}{}
			e := m.endingLocked(r.Expires)
			e.used = append(e.used, n)
		}
	default:
		r.wake()
	}
	return nil
}

// Rooms implements Store.
func (m *Memory) Rooms(context.Context) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expireLocked()
	return len(m.byName) + len(m.used), nil
}

// findLocked returns a room and which of its sides holds token.
func (m *Memory) findLocked(id, token string) (*room, int, error) {
	m.expireLocked()
	r, ok := m.byID[id]
	if !ok {
		return nil, 0, ErrNoRoom
	}
	for i := range r.side {
		if s := &r.side[i]; s.token != "" && !s.left && equal(s.token, token) {
			return r, i, nil
		}
	}
	return nil, 0, ErrToken
}

// wholeSecond returns t, or the next whole second after it.
func wholeSecond(t time.Time) time.Time {
	if whole := t.Truncate(time.Second); whole.Before(t) {
		return whole.Add(time.Second)
	}
	return t
}

// endingLocked returns what is forgotten at a time, which is a whole second.
func (m *Memory) endingLocked(at time.Time) *ending {
	second := max(at.Unix(), m.swept)
	e := m.ends[second]
	if e == nil {
		e = &ending{rooms: make(map[*room]struct{})}
		m.ends[second] = e
	}
	return e
}

// expireLocked forgets what has had its time. Every method begins with it, so that no clock has to
// run; what an idle store still holds is bounded like everything else.
func (m *Memory) expireLocked() {
	now := m.now().Unix()
	if now-m.swept > int64(len(m.ends)) { // nothing for a long time: there are fewer endings than seconds
		for second := range m.ends {
			if second <= now {
				m.endLocked(second)
			}
		}
		m.swept = now + 1
	}
	for ; m.swept <= now; m.swept++ {
		m.endLocked(m.swept)
	}
}

func (m *Memory) endLocked(second int64) {
	e := m.ends[second]
	if e == nil {
		return
	}
	for r := range e.rooms {
		m.dropLocked(r)
	}
	for _, n := range e.used {
		delete(m.used, n)
	}
	delete(m.ends, second)
}

// dropLocked forgets a room. It may be called more than once.
func (m *Memory) dropLocked(r *room) {
	if r.member == nil {
		return
	}
	m.pool.Remove(r.member)
	r.member = nil
	m.bytes -= r.bytes
	delete(m.byID, r.ID)
	if r.Nameplate != "" {
		delete(m.byName, r.Nameplate)
	}
	delete(r.due.rooms, r)
	r.wake()
}

func (r *room) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// plateNumber returns a nameplate as a number. A nameplate has at most ten digits, and no zero in front.
func plateNumber(nameplate string) uint64 {
	n, err := strconv.ParseUint(nameplate, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != nameplate {
		return 0 // no room has this one
	}
	return n
}

// equal compares in a time that tells nothing about where two tokens differ.
func equal(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
