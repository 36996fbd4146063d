package peer

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Sessions that are coming up, of one key and of all, and those that are up. An offer beyond them is
// dropped; its sender tries again.
const (
	meetingsOfKey = 8
	meetingsOfAll = 128
	sessionsOfKey = 32
	sessionsOfAll = 1024
)

const (
	settleFor  = time.Second            // what a new session of a peer waits for its old ones, which do not answer
	answerSoon = 300 * time.Millisecond // within which they would
)

// A roster knows who has a session with a Listener, or is about to. Any goroutine may use it.
type roster struct {
	mu       sync.Mutex
	meetings int
	sessions int
	known    map[[32]byte]*known
}

// known is a peer with sessions. Guarded by roster.mu.
type known struct {
	meetings int
	sessions []*Session // the oldest first
}

func newRoster() roster { return roster{known: make(map[[32]byte]*known)} }

// begin counts a meeting with the holder of key, which end has to follow; false if there are enough. Of a
// peer's sessions that are up, the oldest that has lost its peer gives way: the caller ends it.
func (r *roster) begin(key [32]byte) (giveWay *Session, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.known[key]
	if k == nil {
		k = &known{}
	}
	if r.meetings >= meetingsOfAll || k.meetings >= meetingsOfKey {
		return nil, false
	}
	if len(k.sessions)+k.meetings >= sessionsOfKey || r.sessions+r.meetings >= sessionsOfAll {
		lost := slices.IndexFunc(k.sessions, (*Session).lost)
		if lost < 0 {
			return nil, false
		}
		giveWay = k.sessions[lost]
		r.dropLocked(key, giveWay)
	}
	r.known[key] = k
	r.meetings++
	k.meetings++
	return giveWay, true
}

// of returns the sessions with the holder of key.
func (r *roster) of(key [32]byte) []*Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.known[key]; k != nil {
		return slices.Clone(k.sessions)
	}
	return nil
}

// settle returns when those of a peer's sessions that do not answer had time to hear whether their process has died:
// the peer may have been started again, and what they hold is its own. Those that answer cost it a round trip.
func settle(ctx context.Context, sessions []*Session) {
	ctx, cancel := context.WithTimeout(ctx, settleFor)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range sessions {
		wg.Go(func() {
			soon, cancel := context.WithTimeout(ctx, answerSoon)
			defer cancel()
			if _, err := s.link.Ping(soon); err == nil {
				return
			}
			s.link.Nudge()
			s.end.tell(func(r *roamer) { r.look = true })
			select {
			case <-s.link.Done():
			case <-ctx.Done():
			}
		})
	}
}

// end counts the end of a meeting, and what came of it: nil if nothing.
func (r *roster) end(key [32]byte, s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.known[key]
	r.meetings--
	k.meetings--
	if s != nil {
		k.sessions = append(k.sessions, s)
		r.sessions++
		s.end.wg.Go(func() {
			<-s.link.Done()
			r.mu.Lock()
			defer r.mu.Unlock()
			r.dropLocked(key, s)
		})
	}
	r.tidyLocked(key)
}

// dropLocked forgets a session; more than once does no harm.
func (r *roster) dropLocked(key [32]byte, s *Session) {
	k := r.known[key]
	if k == nil {
		return
	}
	if i := slices.Index(k.sessions, s); i >= 0 {
		k.sessions = slices.Delete(k.sessions, i, i+1)
		r.sessions--
	}
	r.tidyLocked(key)
}

func (r *roster) tidyLocked(key [32]byte) {
	if k := r.known[key]; k != nil && k.meetings == 0 && len(k.sessions) == 0 {
		delete(r.known, key)
	}
}
