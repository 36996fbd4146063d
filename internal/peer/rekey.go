package peer

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"time"

	"adit/internal/handshake"
	"adit/internal/link"
)

const (
	// rekeyEvery is how long fresh keys are good for on a path that stays.
	rekeyEvery = 2 * time.Hour

	// rekeyLeast is between the end of a rekeying and the next, however often the path moves, and before
	// what the link had no room for is tried again.
	rekeyLeast = 2 * time.Second

	// rekeyAgain is how long the leader waits for an answer before it sends the same message again: a peer that
	// has only just found the path may not have been ready for the first.
	rekeyAgain = 15 * time.Second

	rekeyBytes = 1 + 4 + handshake.RekeyLen
	mostRekeys = 4 // messages of the peer that wait to be looked at; more are dropped
)

// A rekeyer puts fresh keys in the place of the session's, by Noise KKpsk0 over the link. The leader, which is the
// controlling side, begins; the other one follows. Each changes over when it knows that the peer can:
//
//	leader                                        follower
//	controlRekey, message 1    ──────────────>    opens with the fresh key too
//	opens with the fresh key too, <───────────    controlRekeyed, message 2
//	seals with it: a PING      ──────────────>    it opened: seals with it, forgets the old ones
//	it opened: forgets the old ones  <────────    PONG
//
// The link delivers each message once, however late. Who gets one twice all the same has answered it. One goroutine,
// the roamer's, owns it.
type rekeyer struct {
	link interface {
		SendControl(b []byte) error
		Rekey(send, recv [32]byte, lead bool) error
	}
	letters *letters // nil if there are none
	log     *slog.Logger

	keys   *handshake.Result // in use on both sides
	next   *handshake.Result // this side can open with them; nil unless a rekeying is under way
	number uint32            // of keys: how many rekeyings there were

	// The leader's.
	begun  *handshake.Rekeying // without an answer yet
	wanted bool
	soon   time.Time // no sooner
	due    time.Time // at the latest

	unsent []byte // what the link had no room for, and is tried again at soon
	asked  []byte // the follower's: what next answers
}

func newRekeyer(l *link.Link, post *letters, keys *handshake.Result, log *slog.Logger) *rekeyer {
	return &rekeyer{link: l, letters: post, log: log, keys: keys, due: time.Now().Add(rekeyEvery)}
}

// want asks for fresh keys: there is another path.
func (k *rekeyer) want() { k.wanted = true }

// step does what is due. up says that the path works.
func (k *rekeyer) step(now time.Time, up bool) {
	if !up || now.Before(k.soon) {
		return
	}
	switch {
	case k.unsent != nil:
		k.send(now, k.unsent)
		return
	case k.begun != nil:
		k.send(now, rekeyMessage(controlRekey, k.number+1, k.begun.Message()))
		return
	case !k.keys.Initiator || k.next != nil || !k.wanted && now.Before(k.due):
		return
	}
	begun, err := k.keys.Rekey(k.number + 1)
	if err != nil {
		k.log.Info("no fresh keys", "err", err)
		k.soon = now.Add(rekeyEvery)
		return
	}
	k.begun, k.wanted = begun, false
	k.send(now, rekeyMessage(controlRekey, k.number+1, begun.Message()))
}

// at is when step has something to do, if the path works; zero: nothing.
func (k *rekeyer) at() time.Time {
	switch {
	case k.unsent != nil, k.begun != nil:
		return k.soon
	case !k.keys.Initiator || k.next != nil:
		return time.Time{}
	case k.wanted:
		return k.soon
	}
	return k.due
}

// send hands a message to the link, now or later.
func (k *rekeyer) send(now time.Time, b []byte) {
	k.unsent, k.soon = nil, now.Add(rekeyAgain)
	if err := k.link.SendControl(b); err != nil {
		k.log.Debug("rekeying waits", "err", err)
		k.unsent, k.soon = b, now.Add(rekeyLeast)
	}
}

func rekeyMessage(kind byte, number uint32, msg []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, number), msg...)
}

// heed takes in a message of the peer. One that does not fit changes nothing.
func (k *rekeyer) heed(now time.Time, b []byte) {
	if len(b) != rekeyBytes || binary.BigEndian.Uint32(b[1:]) != k.number+1 {
		return
	}
	msg := b[rekeyBytes-handshake.RekeyLen:]
	switch {
	case b[0] == controlRekey && k.next != nil && bytes.Equal(msg, k.asked):
		return // the answer is under way
	case b[0] == controlRekey && k.next == nil && !k.keys.Initiator:
		answer, next, err := k.keys.AnswerRekey(k.number+1, msg)
		if err == nil {
			err = k.prepare(next)
		}
		if err != nil {
			k.log.Info("rekeying refused", "err", err)
			return
		}
		k.asked = bytes.Clone(msg)
		k.send(now, rekeyMessage(controlRekeyed, k.number+1, answer))
	case b[0] == controlRekeyed && k.begun != nil:
		next, err := k.begun.Finish(msg)
		if err == nil {
			err = k.prepare(next)
		}
		if err != nil {
			k.log.Info("rekeying not finished", "err", err)
			return
		}
		k.begun = nil
	}
}

// prepare makes this side ready to open with the next keys. The leader knows that the peer is, and seals.
func (k *rekeyer) prepare(next *handshake.Result) error {
	if err := k.link.Rekey(next.Send, next.Recv, next.Initiator); err != nil {
		return err
	}
	next.EraseLinkKeys()
	k.next = next
	if k.letters != nil {
		k.letters.prepare(next, next.Initiator)
	}
	return nil
}

// turned says that the peer seals with the next keys.
func (k *rekeyer) turned(now time.Time) {
	if k.next == nil {
		return
	}
	k.keys.Erase()
	k.keys, k.next, k.asked = k.next, nil, nil
	k.number++
	if k.letters != nil {
		k.letters.turn()
	}
	k.soon, k.due = now.Add(rekeyLeast), now.Add(rekeyEvery)
	k.log.Info("fresh keys", "number", k.number)
}

// rekeying hands a message of the peer to the roamer.
func (e *endpoint) rekeying(b []byte) {
	e.tell(func(r *roamer) {
		if len(r.rekeys) < mostRekeys {
			r.rekeys = append(r.rekeys, bytes.Clone(b))
		}
	})
}

// rekeyed is told by the link that the peer seals with the fresh key.
func (e *endpoint) rekeyed() { e.tell(func(r *roamer) { r.turned = true }) }
