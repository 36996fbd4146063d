package rendezvous

import (
	"container/list"
	"encoding/binary"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"adit/internal/fair"
	"adit/signal"
)

const (
	// MaxLetter is the largest message in a mailbox, in bytes.
	MaxLetter = 4 << 10

	mailboxIdle  = time.Hour      // without a request a mailbox is forgotten after this,
	mailboxLife  = 24 * time.Hour // and with any number of them after that
	mailboxBusy  = maxWait        // so long after a request somebody may still wait at it
	mailboxBytes = 768            // what an empty one is counted as
	numberDigits = 15             // of a letter's number
)

// mailboxes are where two peers that have lost their path leave each other word. Both know the id, which
// derives from their session's keys; nobody else does. A mailbox has a place for one letter of each side:
// the newest, which takes the place of the one before it. It is there when it is first asked for.
//
// Where there is no place for another, the network that has the most gives up the one that was asked for longest ago:
// what strangers leave behind is no hindrance.
type mailboxes struct {
	limits Limits
	now    func() time.Time

	mu     sync.Mutex
	byID   map[string]*list.Element
	recent *list.List          // of *mailbox, the one asked for last at the end
	shares fair.Pool[*mailbox] // of who asked for them first
	bytes  int
}

type mailbox struct {
	id           string
	by           netip.Addr // who asked for it first
	share        *fair.Member[*mailbox]
	made, usedAt time.Time
	letter       [2]letter     // of each side
	wanted       [2]bool       // each side's letters, by the other one
	changed      chan struct{} // closed and replaced at each new letter
}

// A letter's number is its sender's, who gives each new one a larger number. One that was under way for
// longer than a newer one is no letter any more.
type letter struct {
	number int64
	body   []byte
}

func newMailboxes(limits Limits, now func() time.Time) *mailboxes {
	return &mailboxes{
		limits: limits, now: now,
		byID: make(map[string]*list.Element), recent: list.New(),
	}
}

var (
	errNewMailbox = errors.New("no such mailbox yet")                   // the caller may make one
	errMailboxes  = errors.New("address has all mailboxes that it may") // 429
)

// openLocked returns a mailbox, making it for an address if it may. Errors: errNewMailbox, errMailboxes, and
// ErrFull if there is no place for another.
func (m *mailboxes) openLocked(id string, by netip.Addr, may bool) (*mailbox, error) {
	now := m.now()
	for e := m.recent.Front(); e != nil; e = m.recent.Front() {
		b := e.Value.(*mailbox)
		if now.Sub(b.usedAt) < mailboxIdle {
			break
		}
		m.dropLocked(e)
	}
	if e, ok := m.byID[id]; ok {
		if b := e.Value.(*mailbox); now.Sub(b.made) < mailboxLife {
			b.usedAt = now
			m.recent.MoveToBack(e)
			m.shares.Touch(b.share)
			return b, nil
		}
		m.dropLocked(e)
	}
	if !may {
		return nil, errNewMailbox
	}
	if m.shares.Of(by) >= m.limits.MailboxesOfOne && !m.makeRoomLocked(m.shares.OldestOf(by)) {
		return nil, errMailboxes
	}
	for len(m.byID) >= m.limits.Mailboxes || m.bytes+mailboxBytes > m.limits.MailboxBytes {
		if !m.displaceLocked(by) {
			return nil, ErrFull
		}
	}
	b := &mailbox{id: id, by: by, made: now, usedAt: now, changed: make(chan struct{})}
	b.share = m.shares.Add(by, 1, b)
	m.bytes += mailboxBytes
	m.byID[id] = m.recent.PushBack(b)
	return b, nil
}

// displaceLocked drops a mailbox for one of an address: of a network that has more, or else one that nobody can be
// waiting at. It returns false if there is none.
func (m *mailboxes) displaceLocked(by netip.Addr) bool {
	victim, own := m.shares.Victim(by, 1)
	switch {
	case victim == nil && m.shares.Len() == 0:
		return false
	case victim == nil:
		return m.makeRoomLocked(m.shares.Oldest())
	case own:
		return m.makeRoomLocked(victim) || m.makeRoomLocked(m.shares.Oldest())
	}
	m.dropLocked(m.byID[victim.Value.id])
	return true
}

// makeRoomLocked drops a mailbox for another, if nobody can be waiting at it.
func (m *mailboxes) makeRoomLocked(share *fair.Member[*mailbox]) bool {
	b := share.Value
	if m.now().Sub(b.usedAt) <= mailboxBusy {
		return false
	}
	m.dropLocked(m.byID[b.id])
	return true
}

func (m *mailboxes) dropLocked(e *list.Element) {
	b := m.recent.Remove(e).(*mailbox)
	delete(m.byID, b.id)
	m.shares.Remove(b.share)
	m.bytes -= mailboxBytes + len(b.letter[0].body) + len(b.letter[1].body)
	close(b.changed)
	b.changed = make(chan struct{})
}

// count returns how many there are.
func (m *mailboxes) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.byID)
}

// put leaves a side's letter, unless there is one with a larger number. Errors are openLocked's.
func (m *mailboxes) put(id string, side int, number int64, body []byte, by netip.Addr, may bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := m.openLocked(id, by, may)
	if err != nil {
		return err
	}
	old := &b.letter[side]
	if number <= old.number {
		return nil
	}
	more := len(body) - len(old.body)
	for m.bytes+more > m.limits.MailboxBytes {
		if !m.displaceLocked(b.by) { // never this one, which has just been asked for
			return ErrFull
		}
	}
	m.bytes += more
	*old = letter{number, body}
	close(b.changed)
	b.changed = make(chan struct{})
	return nil
}

// get returns the letter of a side if its number is larger than after, else the channel that is closed
// when there may be another. Errors are openLocked's.
func (m *mailboxes) get(id string, side int, after int64, by netip.Addr, may bool) (letter, <-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := m.openLocked(id, by, may)
	if err != nil {
		return letter{}, nil, err
	}
	b.wanted[side] = true
	if l := b.letter[side]; l.number > after {
		return l, nil, nil
	}
	return letter{}, b.changed, nil
}

// met says whether both sides of a mailbox have asked for letters lately.
func (m *mailboxes) met(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.byID[id]
	if !ok {
		return false
	}
	b := e.Value.(*mailbox)
	return b.wanted[0] && b.wanted[1]
}

// mailboxTURN answers GET /v1/mailbox/{id}/{side}/turn as GET /v1/room/{id}/turn is: peers whose room is
// long over may need other credentials. A side shows the one that it has, or both sides must have come.
func (s *Server) mailboxTURN(q *request) *problem {
	if out, ok := s.renewed(q); ok {
		reply(q.w, http.StatusOK, out)
		return nil
	}
	if !s.mailboxes.met(q.to.name) {
		return &problem{status: http.StatusConflict, text: "the other side has not come yet"}
	}
	reply(q.w, http.StatusOK, s.turnFor(q, q.to.name, q.to.seq))
	return nil
}

// mailbox answers PUT /v1/mailbox/{id}/{side}/{number}, which leaves side's letter, and
// GET /v1/mailbox/{id}/{side}/{after}?wait=25, which returns the letter of that side if there is a newer
// one than that, with its number, eight bytes, in front.
func (s *Server) mailbox(q *request) *problem {
	w, to, addr := q.w, q.to, q.addr
	try := func(do func(may bool) error) *problem {
		err := do(false)
		if errors.Is(err, errNewMailbox) {
			if !s.limits.allow(addr, perRoom, 1) {
				return tooManyMailboxes()
			}
			if p := s.admit(q, "mailbox", signal.KeyName{}, perRoom); p != nil {
				if p.status == http.StatusUnauthorized { // the other side of the session may have a token
					p = &problem{status: http.StatusServiceUnavailable, text: "nobody who may use this rendezvous has come yet", retry: 2 * time.Second}
				}
				return p
			}
			err = do(true)
		}
		switch {
		case errors.Is(err, errMailboxes):
			return tooManyMailboxes()
		case err != nil:
			return s.storeProblem(err)
		}
		return nil
	}
	if to.action == actPost {
		b, p := s.body(q)
		switch {
		case p != nil:
			return p
		case len(b) == 0:
			return &problem{status: http.StatusBadRequest, text: "the message is empty"}
		case len(b) > MaxLetter:
			return &problem{status: http.StatusRequestEntityTooLarge, text: "a mailbox takes messages of at most " + strconv.Itoa(MaxLetter) + " bytes"}
		}
		if p := try(func(may bool) error { return s.mailboxes.put(to.name, to.seq, to.after, b, addr, may) }); p != nil {
			return p
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return s.wait(q, "", func() (b []byte, changed <-chan struct{}, p *problem) {
		p = try(func(may bool) error {
			l, c, err := s.mailboxes.get(to.name, to.seq, to.after, addr, may)
			changed = c
			if l.body != nil {
				b = append(binary.BigEndian.AppendUint64(nil, uint64(l.number)), l.body...)
			}
			return err
		})
		return b, changed, p
	})
}
