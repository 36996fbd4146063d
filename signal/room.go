package signal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	pollWait     = 25 * time.Second // less than what proxies cut
	pollSlack    = 15 * time.Second
	maxReceived  = 32              // messages of a peer: what the protocol allows a side
	quickNothing = 5 * time.Second // a poll that ends sooner with nothing was not a wait
)

// A Room is a place at a rendezvous where two peers meet: a Channel that trickles. Its methods may be
// called from several goroutines at once. It always has one request waiting for the peer, so that a
// message costs half a round trip.
type Room struct {
	client    *Client
	base      string // its URL
	token     string
	nameplate string
	expires   time.Time
	inbox     chan Message // everything the peer may send, so that the poll never waits for a reader

	lifetime context.Context // ends with Close, which is its cause
	cancel   context.CancelCauseFunc
	done     chan struct{} // closed when the poll has ended; failed is why
	failed   error
	leave    sync.Once

	turnMu sync.Mutex
	turn   []TURNServer // nil if not known; guarded by turnMu
	pass   string       // what shows which side of the room this is; guarded by turnMu

	sending   chan struct{} // holds one: a lock that a context can give up on
	next      int           // number of the next message; guarded by sending
	uncertain bool          // number next may have arrived although its Send failed; guarded by sending
}

var errRoomClosed = fmt.Errorf("the room is closed: %w", net.ErrClosed)

// start begins to wait for the peer. first is its message 0, if it came with the room.
func (r *Room) start(first *Message) {
	r.inbox = make(chan Message, maxReceived)
	r.done = make(chan struct{})
	r.sending = make(chan struct{}, 1)
	r.lifetime, r.cancel = context.WithCancelCause(context.Background())
	seq := 0
	if first != nil {
		r.inbox <- *first
		seq = 1
	}
	go r.poll(seq)
}

// Nameplate returns the number under which the other peer joins.
func (r *Room) Nameplate() string { return r.nameplate }

// Expires returns when the rendezvous forgets the room.
func (r *Room) Expires() time.Time { return r.expires }

// Trickles reports that further messages may follow the first ones.
func (r *Room) Trickles() bool { return true }

// Send hands m to the rendezvous. It returns when m is there, or when ctx, the room's time or the room
// ends; while the rendezvous cannot be reached it goes on trying. Messages arrive in the order of the
// Sends. One whose Send was ended by ctx may still arrive. Errors: ErrTooLong, ErrPeerGone, ErrNoRoom if the
// rendezvous forgot the room, ErrBusy, net.ErrClosed after Close.
func (r *Room) Send(ctx context.Context, m Message) error {
	body := m.Append(nil)
	if len(body) > MaxMessage {
		return fmt.Errorf("send %d bytes to room %s: %w", len(body), r.nameplate, ErrTooLong)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.lifetime, func() { cancel(context.Cause(r.lifetime)) })()
	select {
	case r.sending <- struct{}{}:
		defer func() { <-r.sending }()
	case <-ctx.Done():
		return fmt.Errorf("send to room %s: %w", r.nameplate, context.Cause(ctx))
	}
	for {
		err := r.request(ctx, func(ctx context.Context) error {
			_, _, err := r.client.try(ctx, tryTimeout, http.MethodPut, r.at(r.next), r.token, body)
			return err
		})
		var re *replyError
		isReply := errors.As(err, &re)
		switch {
		case err == nil:
			r.next, r.uncertain = r.next+1, false
			return nil
		case isReply && re.status == http.StatusConflict && r.uncertain:
			r.next, r.uncertain = r.next+1, false // the message before this one did arrive
			continue
		case isReply && re.status == http.StatusConflict:
			err = errors.New(re.Error()) // not ErrRoomTaken: this is about a message
		default:
			r.uncertain = true // a reply may have been lost, or a proxy's taken its place
		}
		return fmt.Errorf("send to room %s: %w", r.nameplate, err)
	}
}

// Receive returns the peer's next message. It waits until there is one, or until ctx, the room's time or
// the room ends. Errors: ErrPeerGone once the peer left and all it sent was received, ErrNoRoom if the
// rendezvous forgot the room, net.ErrClosed after Close.
func (r *Room) Receive(ctx context.Context) (Message, error) {
	if r.lifetime.Err() != nil {
		return Message{}, fmt.Errorf("wait in room %s: %w", r.nameplate, errRoomClosed)
	}
	select {
	case m := <-r.inbox:
		return m, nil
	default:
	}
	select {
	case m := <-r.inbox:
		return m, nil
	case <-ctx.Done():
		return Message{}, fmt.Errorf("wait in room %s: %w", r.nameplate, context.Cause(ctx))
	case <-r.done:
	}
	select {
	case m := <-r.inbox: // it came just before the end
		return m, nil
	default:
		return Message{}, fmt.Errorf("wait in room %s: %w", r.nameplate, r.failed)
	}
}

// Close leaves the room: the peer hears of it. Waiting calls return net.ErrClosed. It takes two seconds at
// most if the rendezvous does not answer, and never fails: the room's end needs nobody's help.
func (r *Room) Close() error {
	r.leave.Do(func() {
		r.cancel(errRoomClosed)
		<-r.done
		if !errors.Is(r.failed, ErrNoRoom) {
			// If this does not get through the rendezvous forgets the room in time.
			_, _, _ = r.client.try(context.Background(), leaveTimeout, http.MethodDelete, r.base, r.token, nil)
		}
		r.client.CloseIdle()
	})
	return nil
}

func (r *Room) at(seq int) string { return r.base + "/" + strconv.Itoa(seq) }

// poll keeps one request waiting for the peer's next message, from number seq on, and ends with the room.
func (r *Room) poll(seq int) {
	defer close(r.done)
	var idle backoff
	for {
		var b []byte
		began := time.Now()
		err := r.request(r.lifetime, func(ctx context.Context) error {
			var err error
			_, b, err = r.client.try(ctx, pollWait+pollSlack, http.MethodGet,
				r.at(seq)+"?wait="+strconv.Itoa(int(pollWait/time.Second)), r.token, nil)
			return err
		})
		if err != nil {
			r.failed = err
			return
		}
		if len(b) == 0 {
			// Something in between may answer for the server, and at once: do not ask it all day.
			if time.Since(began) < quickNothing && !sleep(r.lifetime, idle.next(0)) {
				r.failed = context.Cause(r.lifetime)
				return
			}
			continue
		}
		idle = backoff{}
		m, err := ParseMessage(b)
		if err != nil {
			r.failed = fmt.Errorf("message %d: %w", seq, err)
			return
		}
		if seq >= maxReceived {
			r.failed = fmt.Errorf("the peer sent more than %d messages", maxReceived)
			return
		}
		r.inbox <- m
		seq++
	}
}

// request tries until it has an answer that is final, ctx ends, or the room's time is over.
func (r *Room) request(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithDeadlineCause(ctx, r.expires, fmt.Errorf("its time is over: %w", ErrNoRoom))
	defer cancel()
	return r.client.persist(ctx, func() error { return try(ctx) }, func() {})
}
