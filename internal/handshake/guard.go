package handshake

import (
	"crypto/rand"
	"fmt"
	"sync"

	"github.com/flynn/noise"
)

// ChallengeLen is the length of a Challenge in bytes.
const ChallengeLen = 16

// A Challenge is random and no secret: a responder publishes it, and an offer in ModeKey has to contain it.
type Challenge [ChallengeLen]byte

// guardOffers is how many offers one challenge admits. Who is on the list can use them up, and no more than
// that: the next challenge has as many.
const guardOffers = 4096

// A Guard sees to it that a responder in ModeKey takes each offer once. IK's first message can be recorded
// and sent again; clocks that agree cannot be had of machines that have just been switched on. So an offer
// contains a challenge of the responder, of which two are open, the newest and the one before, and the Guard
// remembers the offers under each: 4,096 of 32 bytes at the most. The first eight bytes of all challenges of one
// Guard are the same, and of no other's: who sees them change knows that the process is another. It may be used
// by several goroutines.
type Guard struct {
	process [8]byte

	mu   sync.Mutex
	open [2]challenged // the newest first
}

type challenged struct {
	challenge Challenge
	seen      map[[32]byte]struct{} // ephemeral keys; nil if there is no such challenge yet
}

// NewGuard returns a Guard with one open challenge.
func NewGuard() *Guard {
	g := &Guard{}
	rand.Read(g.process[:]) // never fails: crypto/rand ends the process instead
	g.Rotate()
	return g
}

// Challenge returns the newest challenge.
func (g *Guard) Challenge() Challenge {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open[0].challenge
}

// Rotate makes a new challenge and returns it. The one before stays open until the next time.
func (g *Guard) Rotate() Challenge {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rotateLocked()
}

func (g *Guard) rotateLocked() Challenge {
	next := challenged{seen: make(map[[32]byte]struct{})}
	copy(next.challenge[:], g.process[:])
	rand.Read(next.challenge[len(g.process):]) // never fails: crypto/rand ends the process instead
	g.open = [2]challenged{next, g.open[0]}
	return next.challenge
}

// admit notes an offer by its ephemeral key. The error is ErrReplay.
func (g *Guard) admit(c Challenge, ephemeral [32]byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.open {
		o := &g.open[i]
		if o.seen == nil || o.challenge != c {
			continue
		}
		if _, again := o.seen[ephemeral]; again {
			return fmt.Errorf("it was there before: %w", ErrReplay)
		}
		if len(o.seen) >= guardOffers {
			if i == 0 {
				g.rotateLocked()
			}
			return fmt.Errorf("%d offers under one challenge: %w", guardOffers, ErrReplay)
		}
		o.seen[ephemeral] = struct{}{}
		return nil
	}
	return fmt.Errorf("its challenge is not open: %w", ErrReplay)
}

// listedDH is X25519 for a responder of IK, whose first use in a handshake is es, with the peer's ephemeral
// key, and whose second is ss, with its static one: a stranger's is refused there, at the price of one.
type listedDH struct {
	noise.DHFunc
	allow func([32]byte) bool
	uses  int
}

func (d *listedDH) DH(private, public []byte) ([]byte, error) {
	d.uses++
	if d.uses == 2 && (len(public) != keyLen || !d.allow([32]byte(public))) {
		return nil, ErrStranger
	}
	return d.DHFunc.DH(private, public)
}
