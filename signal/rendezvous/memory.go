package rendezvous

import (
	"bytes"
	"container/list"
	"context"
	"crypto/subtle"
	"sync"
	"time"
)

const (
	creator = 0
	joiner  = 1

	// roomBytes is what a room without messages is counted as. It is generous: both maps, the list
	// element, the strings and the channel are within it.
	roomBytes = 1024
	// messageBytes is what a message is counted as, besides its content.
	messageBytes = 64
)

// Memory is a Store in this process's memory.
type Memory struct {
	limits Limits
	now    func() time.Time

	mu     sync.Mutex
	byName map[string]*list.Element
	byID   map[string]*list.Element // spent rooms are not in here
	order  *list.List               // of *room, the one that expires first in front
	bytes  int
}

type room struct {
	Room
	side    [2]side
	joined  bool
	changed chan struct{} // closed and replaced at each change
}

type side struct {
	token    string
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
		byName: make(map[string]*list.Element),
		byID:   make(map[string]*list.Element),
		order:  list.New(),
	}
}

// Create implements Store.
func (m *Memory) Create(_ context.Context, r Room) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expireLocked()
	if _, taken := m.byName[r.Nameplate]; taken {
		return ErrNameplateTaken
	}
	size := roomBytes
	if r.First != nil {
		size += len(r.First) + messageBytes
	}
	if len(m.byName) >= m.limits.Rooms || m.bytes+size > m.limits.Bytes {
		return ErrFull
	}
	m.bytes += size
	n := &room{Room: r, changed: make(chan struct{})}
	n.side[creator].token = r.Token
	if r.First != nil {
		n.side[creator].messages = [][]byte{r.First}
	}
	// Rooms mostly live equally long, so the place is nearly always at the end.
	at := m.order.Back()
	for at != nil && at.Value.(*room).Expires.After(r.Expires) {
		at = at.Prev()
	}
	var e *list.Element
	if at == nil {
		e = m.order.PushFront(n)
	} else {
		e = m.order.InsertAfter(n, at)
	}
	m.byName[r.Nameplate], m.byID[r.ID] = e, e
	return nil
}

// Join implements Store.
func (m *Memory) Join(_ context.Context, nameplate, token string) (Ticket, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expireLocked()
	e, ok := m.byName[nameplate]
	if !ok {
		return Ticket{}, ErrNoRoom
	}
	r := e.Value.(*room)
	j := &r.side[joiner]
	if r.joined && (j.left || !equal(j.token, token)) {
		return Ticket{}, ErrRoomTaken
	}
	r.joined, j.token = true, token
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
	case m.bytes+len(message)+messageBytes > m.limits.Bytes:
		return ErrFull
	}
	m.bytes += len(message) + messageBytes
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
	return Place{Side: mine, Both: r.joined, Expires: r.Expires}, nil
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
	r.wake()
	switch {
	case !r.joined:
		m.dropLocked(m.byName[r.Nameplate])
	case r.side[1-mine].left:
		m.spendLocked(r)
	}
	return nil
}

// Rooms implements Store.
func (m *Memory) Rooms(context.Context) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expireLocked()
	return len(m.byName), nil
}

// findLocked returns a room and which of its sides holds token.
func (m *Memory) findLocked(id, token string) (*room, int, error) {
	m.expireLocked()
	e, ok := m.byID[id]
	if !ok {
		return nil, 0, ErrNoRoom
	}
	r := e.Value.(*room)
	for i := range r.side {
		if s := &r.side[i]; s.token != "" && !s.left && equal(s.token, token) {
			return r, i, nil
		}
	}
	return nil, 0, ErrToken
}

// expireLocked drops the rooms whose time is over. Every method begins with it, so that no clock has to
// run; what an idle store still holds is bounded like everything else.
func (m *Memory) expireLocked() {
	now := m.now()
	for e := m.order.Front(); e != nil && !e.Value.(*room).Expires.After(now); e = m.order.Front() {
		m.dropLocked(e)
	}
}

func (m *Memory) dropLocked(e *list.Element) {
	r := e.Value.(*room)
	m.spendLocked(r)
	m.bytes -= roomBytes
	delete(m.byName, r.Nameplate)
	m.order.Remove(e)
	r.wake()
}

// spendLocked forgets the messages and tokens of a room. Its nameplate stays taken: whoever comes late
// with a used code shall hear so, and not end up in somebody else's room.
func (m *Memory) spendLocked(r *room) {
	for i := range r.side {
		for _, b := range r.side[i].messages {
			m.bytes -= len(b) + messageBytes
		}
		r.side[i] = side{left: true}
	}
	r.First = nil
	r.joined = true
	delete(m.byID, r.ID)
}

func (r *room) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// equal compares in a time that tells nothing about where two tokens differ.
func equal(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
