package link

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	rekeyPackets = 1 << 22          // half of what RFC 9001 §6.6 allows AES-GCM
	rekeyAfter   = 10 * time.Minute // what a thief of the current key can read backwards
	oldEpochFor  = 10 * time.Second // how long packets of the last epoch may come late
	maxEpoch     = 1 << 23          // packets after which an unconfirmed epoch ends all the same
)

// An epochKey seals or opens the packets of one epoch in one direction.
type epochKey struct {
	secret [32]byte
	aead   cipher.AEAD // nil: no such epoch
}

func newEpochKey(secret [32]byte, useAES bool) epochKey {
	var a cipher.AEAD
	var err error
	if useAES {
		var b cipher.Block
		if b, err = aes.NewCipher(secret[:]); err == nil {
			a, err = cipher.NewGCM(b)
		}
	} else {
		a, err = chacha20poly1305.New(secret[:])
	}
	if err != nil {
		panic("link: " + err.Error()) // the key has the right size
	}
	return epochKey{secret, a}
}

// after returns the key of the next epoch. There is no way back.
func (k *epochKey) after(useAES bool) epochKey {
	b, err := hkdf.Expand(sha256.New, k.secret[:], "adit rekey", len(k.secret))
	if err != nil {
		panic("link: " + err.Error()) // the length is within HKDF's bounds
	}
	var secret [32]byte
	copy(secret[:], b)
	clear(b)
	return newEpochKey(secret, useAES)
}

func (k *epochKey) erase() { *k = epochKey{} }

// A sealer numbers and seals packets. It belongs to the link's run goroutine; its counter is read
// and advanced with the link's mutex held.
type sealer struct {
	aes     bool
	key     epochKey
	epoch   byte
	counter uint64 // of the last packet; 0 before the first
	first   uint64 // counter at the start of the epoch
	since   time.Duration
	packets uint64 // rekeyPackets, but for tests
	nonce   [headerBytes]byte

	// With the link's mutex held.
	fresh epochKey // of the next epoch, in the place of the ratchet's; none if its aead is nil
	free  bool     // the peer is known to have fresh
}

// due reports whether the epoch should end, once the peer has seen a packet of it: confirmed is the
// highest counter known to have arrived. So the peer is never more than one epoch behind.
func (s *sealer) due(now time.Duration, confirmed uint64) bool {
	n := s.counter - s.first
	return n >= maxEpoch || confirmed > s.first && (n >= s.packets || now-s.since >= rekeyAfter || s.free)
}

// ratchet begins the next epoch, with the fresh key if the peer has it.
func (s *sealer) ratchet(now time.Duration) {
	var next epochKey
	if s.free {
		next, s.fresh, s.free = s.fresh, epochKey{}, false
	} else {
		next = s.key.after(s.aes)
	}
	s.key.erase()
	s.key = next
	s.epoch = (s.epoch + 1) & 3
	s.first, s.since = s.counter, now
}

// seal encrypts in place: p is header, plaintext, and room for the tag.
func (s *sealer) seal(p []byte) {
	copy(s.nonce[4:], p[4:headerBytes])
	body := p[headerBytes : len(p)-tagBytes]
	s.key.aead.Seal(body[:0], s.nonce[:], body, p[:headerBytes])
}

// An opener opens packets, drops replays, and follows the peer's ratchet. Guarded by Link.rmu.
type opener struct {
	aes              bool
	cur, next, prev  epochKey // next is derived beforehand: a forger must not cost us an HKDF
	fresh            epochKey // what the next epoch may begin with instead; none if its aead is nil
	scratch          []byte   // a packet's body, for the second of two keys; as long as there is fresh
	epoch            byte     // of cur
	lowest           uint64   // counter of cur's epoch: what is sealed with prev has a lower one
	prevUntil        time.Duration
	turned           bool // there is a prev that nobody has set the timer for
	window           replayWindow
	nonce            [headerBytes]byte
	rejected, replay uint64
}

func newOpener(secret [32]byte, useAES bool) opener {
	o := opener{aes: useAES, cur: newEpochKey(secret, useAES)}
	o.next = o.cur.after(useAES)
	return o
}

// rekey names the key that one of the next epochs begins with.
func (o *opener) rekey(secret [32]byte) {
	o.fresh = newEpochKey(secret, o.aes)
	o.scratch = make([]byte, mostPacket)
}

// open authenticates and decrypts p in place and returns its plaintext. A packet that is not
// accepted changes nothing but the count of such packets.
func (o *opener) open(p []byte, now time.Duration) (plain []byte, highest, ok bool) {
	c := packetCounter(p)
	if !o.window.fresh(c) {
		o.replay++
		return nil, false, false
	}
	step := (packetEpoch(p) - o.epoch) & 3
	var key *epochKey
	switch step {
	case 0:
		key = &o.cur
	case 1:
		key = &o.next
	case 3:
		o.expire(now)
		if c < o.lowest { // else whoever has only the old key made it
			key = &o.prev
		}
	}
	if key == nil || key.aead == nil {
		o.rejected++
		return nil, false, false
	}
	binary.BigEndian.PutUint64(o.nonce[4:], c)
	if step == 1 && o.fresh.aead != nil {
		copy(o.scratch, p[headerBytes:])
		if plain, ok = o.try(&o.fresh, p); ok {
			o.next, o.fresh, o.scratch = o.fresh, epochKey{}, nil
		} else {
			copy(p[headerBytes:], o.scratch) // a failure leaves zeros
		}
	}
	if !ok {
		if plain, ok = o.try(key, p); !ok {
			o.rejected++
			return nil, false, false
		}
	}
	switch step {
	case 0:
		o.lowest = min(o.lowest, c)
	case 1:
		o.prev, o.prevUntil = o.cur, now+oldEpochFor
		o.cur = o.next
		o.next = o.cur.after(o.aes)
		o.epoch = (o.epoch + 1) & 3
		o.lowest = c
		o.turned = true
	}
	return plain, o.window.accept(c), true
}

func (o *opener) try(key *epochKey, p []byte) (plain []byte, ok bool) {
	plain, err := key.aead.Open(p[headerBytes:headerBytes], o.nonce[:], p[headerBytes:], p[:headerBytes])
	return plain, err == nil
}

// expire erases the last epoch's key when its time is over: before a packet of that epoch is opened, and by a timer
// where none comes.
func (o *opener) expire(now time.Duration) {
	if o.prev.aead != nil && now >= o.prevUntil {
		o.prev.erase()
	}
}

// erase forgets all keys.
func (o *opener) erase() {
	for _, k := range []*epochKey{&o.cur, &o.next, &o.prev, &o.fresh} {
		k.erase()
	}
}

// Rekey gives the link keys that owe nothing to those it has: what the holder of the old ones could read ends
// with them. Both sides call it, the follower first, which only then may tell the leader to; no packet is lost over it.
//
// With lead this side seals with send as soon as the peer is known to be in this side's present epoch;
// without it once a packet has opened under recv. When that has happened Config.OnRekey is called, on
// either side: the peer seals with the fresh key from then on. Until then the link must not be
// rekeyed again: ErrBusy. The error is what ended the link, if that has ended.
func (l *Link) Rekey(send, recv [32]byte, lead bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return fmt.Errorf("rekey link: %w", l.err)
	}
	l.rmu.Lock()
	defer l.rmu.Unlock()
	if l.opener.fresh.aead != nil || l.seal.fresh.aead != nil {
		return fmt.Errorf("rekey link: the last fresh keys are not in use yet: %w", ErrBusy)
	}
	l.opener.rekey(recv)
	l.seal.fresh, l.seal.free = newEpochKey(send, l.cfg.AES), lead
	l.live.nudged = l.live.begun && lead // what is answered tells that the peer is in the present epoch
	l.poke()
	return nil
}

// rekeyed is called when a packet has opened under the fresh key.
func (l *Link) rekeyed() {
	l.mu.Lock()
	l.seal.free = l.seal.fresh.aead != nil
	l.live.nudged = l.live.begun
	l.mu.Unlock()
	l.poke()
	if l.cfg.OnRekey != nil {
		l.cfg.OnRekey()
	}
}
