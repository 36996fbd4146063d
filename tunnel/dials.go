package tunnel

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// dialTimeout is for all of a target's addresses and the wait for a turn. minDial is the least time that one
	// address gets while the deadline allows it.
	dialTimeout = 10 * time.Second
	minDial     = 2 * time.Second

	// maxDials is how many connections a session makes at once, and maxTargetDials how many of them to one target.
	// The others wait for their turn, which passes from target to target.
	maxDials       = 2048
	maxTargetDials = 256

	// maxTurnWait is how long a stream waits for its turn. It leaves a dial half of dialTimeout.
	maxTurnWait = dialTimeout / 2

	// dialGrace is how long a dial goes on whatever waits. While there are maxDials, the oldest of those that have
	// had it makes room for one that waits.
	dialGrace = time.Second
)

// errDisplaced is why a dial without an answer was given up before its time.
var errDisplaced = errors.New("no answer yet, and other connections wait for their turn")

// errNoTurn is why a stream was not dialled at all.
var errNoTurn = fmt.Errorf("no turn within %v: too many connections without an answer are being made", maxTurnWait)

// dials gives the streams of a session their turns to dial, so that targets without an answer hold up nobody but the
// streams to themselves.
//
//	enter ── waits at its target ── turn of the target, and room ── dials ── leave
//	                                                                └─ gives way after dialGrace
type dials struct {
	mu      sync.Mutex
	running list.List // of *dialing, the oldest first
	targets map[string]*dialTarget
	turns   list.List   // of *dialTarget: each has a stream that waits and room for it
	due     *time.Timer // when the oldest dial may be displaced; nil before it was needed
}

// A dialTarget is a target that has streams which dial or wait.
type dialTarget struct {
	name    string
	running int
	waiting list.List     // of *dialing, the first comes first
	turn    *list.Element // in dials.turns, or nil
}

// A dialing is one stream. The fields after turn are guarded by dials.mu.
type dialing struct {
	turn chan struct{} // closed when it may dial

	target  *dialTarget
	place   *list.Element // in running once turn is closed, before in target.waiting; nil when it has left
	dials   bool
	began   time.Time
	giveWay func() // ends the dial
}

func newDials() *dials { return &dials{targets: make(map[string]*dialTarget)} }

// do returns what dial has for the named target when its turn has come. It ends when ctx does, after dialTimeout, or
// when nobody waits for the connection any more: st is over, and what it brought is nothing.
func (d *dials) do(ctx context.Context, target string, st Stream, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	limited, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	limited, giveUp := context.WithCancelCause(limited)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer giveUp(nil)
	watch.Go(func() {
		select {
		case <-st.Done():
			if d, ok := st.(DuplexStream); !ok || d.Unread() == 0 {
				giveUp(net.ErrClosed)
			}
		case <-limited.Done():
		}
	})
	x := d.enter(target, func() { giveUp(errDisplaced) })
	defer d.leave(x)
	t := time.NewTimer(maxTurnWait)
	defer t.Stop()
	select {
	case <-x.turn:
	case <-t.C:
		return nil, errNoTurn
	case <-limited.Done():
		return nil, context.Cause(limited)
	}
	c, err := dial(limited)
	if err != nil && errors.Is(context.Cause(limited), errDisplaced) {
		err = errDisplaced
	}
	return c, err
}

// enter adds a stream that wants to dial. giveWay is called at most once, with the lock held.
func (d *dials) enter(name string, giveWay func()) *dialing {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.targets[name]
	if t == nil {
		t = &dialTarget{name: name}
		d.targets[name] = t
	}
	x := &dialing{turn: make(chan struct{}), target: t, giveWay: giveWay}
	x.place = t.waiting.PushBack(x)
	d.lineUpLocked(t)
	d.passLocked()
	return x
}

// leave takes x off, whether it has dialled or not.
func (d *dials) leave(x *dialing) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removeLocked(x)
	d.passLocked()
}

func (d *dials) removeLocked(x *dialing) {
	t := x.target
	switch {
	case x.place == nil:
		return // displaced
	case x.dials:
		d.running.Remove(x.place)
		t.running--
	default:
		t.waiting.Remove(x.place)
	}
	x.place = nil
	d.lineUpLocked(t)
	if t.running == 0 && t.waiting.Len() == 0 {
		delete(d.targets, t.name)
	}
}

// lineUpLocked gives t a place in turns, behind the others, if it needs one, and takes it away if not.
func (d *dials) lineUpLocked(t *dialTarget) {
	switch wants := t.waiting.Len() > 0 && t.running < maxTargetDials; {
	case wants && t.turn == nil:
		t.turn = d.turns.PushBack(t)
	case !wants && t.turn != nil:
		d.turns.Remove(t.turn)
		t.turn = nil
	}
}

// passLocked gives turns for as long as there is room, or room can be made.
func (d *dials) passLocked() {
	for d.turns.Len() > 0 {
		if d.running.Len() >= maxDials {
			oldest := d.running.Front().Value.(*dialing)
			if wait := dialGrace - time.Since(oldest.began); wait > 0 {
				d.passAfterLocked(wait)
				return
			}
			oldest.giveWay()
			d.removeLocked(oldest)
		}
		t := d.turns.Remove(d.turns.Front()).(*dialTarget)
		t.turn = nil
		x := t.waiting.Remove(t.waiting.Front()).(*dialing)
		t.running++
		x.place, x.dials, x.began = d.running.PushBack(x), true, time.Now()
		close(x.turn)
		d.lineUpLocked(t)
	}
}

// passAfterLocked has passLocked look again. The timer needs no end: it finds that there is nothing to do.
func (d *dials) passAfterLocked(wait time.Duration) {
	if d.due != nil {
		d.due.Reset(wait)
		return
	}
	d.due = time.AfterFunc(wait, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.passLocked()
	})
}
