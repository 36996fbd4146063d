package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"adit/internal/handshake"
	"adit/internal/link"
	"adit/signal"
)

// lettersAgain is how long to wait before a mailbox that refused is tried again.
const lettersAgain = 15 * time.Second

// letters leaves offers for the peer in the mailbox of this session, and fetches the peer's. The mailbox'
// id and the keys of both directions derive from the session's keys: the rendezvous can drop letters and
// bring old ones, which number and seed give away, but neither read nor write any.
type letters struct {
	client *signal.Client
	id     [16]byte // stays what it is when the keys change: it is no secret
	side   int

	mu       sync.Mutex
	now      letterKeys
	next     *letterKeys // open letters too; nil unless a rekeying is under way
	ahead    bool        // next seals
	sent     uint64      // counter of the last letter left
	received uint64      // of the last fetched
}

type letterKeys struct {
	out, in [chacha20poly1305.KeySize]byte
}

func newLetters(client *signal.Client, keys *handshake.Result, controlling bool) *letters {
	l := &letters{client: client}
	copy(l.id[:], keys.Exporter("adit mailbox", len(l.id)))
	if !controlling {
		l.side = 1
	}
	l.now = l.keys(keys)
	return l
}

func (l *letters) keys(keys *handshake.Result) (k letterKeys) {
	mine, theirs := "adit letters of the controlling", "adit letters of the controlled"
	if l.side == 1 {
		mine, theirs = theirs, mine
	}
	copy(k.out[:], keys.Exporter(mine, len(k.out)))
	copy(k.in[:], keys.Exporter(theirs, len(k.in)))
	return k
}

// prepare makes letters open with keys that are to come as well; ahead says that the peer can open with them.
func (l *letters) prepare(keys *handshake.Result, ahead bool) {
	next := l.keys(keys)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next, l.ahead = &next, ahead
}

// turn forgets the keys before those of prepare.
func (l *letters) turn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next != nil {
		l.now, l.next = *l.next, nil
	}
}

// A letter is its counter, u64, and the sealed offer. The counter is its number in the mailbox too.
type letter []byte

func (l letter) number() uint64 { return binary.BigEndian.Uint64(l) }

// seal returns a new letter.
func (l *letters) seal(o offer) letter {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	return l.sealLocked(o, l.sent)
}

// tombstone returns the letter that says that this process has died: none comes after it.
func (l *letters) tombstone() letter {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sealLocked(offer{kind: controlDied}, tombstoneNumber)
}

func (l *letters) sealLocked(o offer, number uint64) letter {
	nonce := make([]byte, chacha20poly1305.NonceSize)
	binary.BigEndian.PutUint64(nonce[4:], number)
	key := &l.now.out
	if l.next != nil && l.ahead {
		key = &l.next.out
	}
	aead, err := chacha20poly1305.New(key[:])
	if err != nil {
		panic("peer: " + err.Error()) // the key has the right size
	}
	return aead.Seal(append([]byte(nil), nonce[4:]...), nonce, o.append(nil), nil)
}

// open returns the offer in a letter of the peer that is newer than those before.
func (l *letters) open(b []byte) (offer, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(b) < 8 || binary.BigEndian.Uint64(b) <= l.received {
		return offer{}, false
	}
	plain, ok := l.now.open(b)
	if !ok && l.next != nil {
		plain, ok = l.next.open(b)
	}
	if !ok {
		return offer{}, false
	}
	l.received = binary.BigEndian.Uint64(b)
	o, err := parseOffer(plain)
	return o, err == nil
}

func (k *letterKeys) open(b []byte) (plain []byte, ok bool) {
	aead, err := chacha20poly1305.New(k.in[:])
	if err != nil {
		panic("peer: " + err.Error()) // the key has the right size
	}
	nonce := append(make([]byte, 4), b[:8]...)
	plain, err = aead.Open(nil, nonce, b[8:], nil)
	return plain, err == nil
}

// post carries letters both ways until ctx ends: the newest of out goes to the mailbox, what comes from
// there to got. A mailbox that is away is tried again and again, within five seconds each time.
func (l *letters) post(ctx context.Context, e *endpoint, out <-chan letter, got func(offer)) {
	box, err := l.client.Mailbox(l.id, l.side)
	if err != nil {
		return // it is no URL; the meeting would not have succeeded
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			b, err := box.Next(ctx)
			if err == nil {
				if o, ok := l.open(b); ok {
					got(o)
				}
				continue
			}
			if ctx.Err() != nil {
				return
			}
			e.cfg.Logger.Info("no letters", "err", err)
			if !sleep(ctx, lettersAgain) {
				return
			}
		}
	}()
	defer box.Close()
	defer func() { <-done }()
	for {
		var b letter
		select {
		case b = <-out:
		case <-ctx.Done():
			return
		}
		for b != nil {
			one, cancel := context.WithCancel(ctx)
			failed := make(chan error, 1)
			go func(b letter) { failed <- box.Put(one, b.number(), b) }(b)
			b = nil
			select {
			case err := <-failed:
				if err != nil && ctx.Err() == nil {
					e.cfg.Logger.Info("letter not left", "err", err)
				}
			case b = <-out: // it takes the place of the one under way
				cancel()
				<-failed
			}
			cancel()
		}
	}
}

// sayBye leaves word that this side has closed the session, where the link could not say so.
func (r *roamer) sayBye() {
	if r.letters == nil || r.left || r.was == link.Up || !errors.Is(r.e.link.Err(), link.ErrClosed) {
		return
	}
	box, err := r.client.Mailbox(r.letters.id, r.letters.side)
	if err != nil {
		return
	}
	defer box.Close()
	ctx, cancel := context.WithTimeout(context.Background(), byeFor)
	defer cancel()
	bye := r.letters.seal(offer{kind: controlBye, number: r.number})
	if err := box.Put(ctx, bye.number(), bye); err != nil {
		r.e.cfg.Logger.Info("letter not left", "err", err) // the peer waits for as long as it is told to
	}
}

// bequeath has word left for the peer, should this process be killed. It does not wait for the disk.
func (r *roamer) bequeath() {
	if r.stone != nil {
		r.e.wg.Go(func() { r.stone.write(r.letters) })
	}
}
