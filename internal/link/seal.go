package link

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
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
}

// due reports whether the epoch should end, once the peer has seen a packet of it: confirmed is the
// highest counter known to have arrived. So the peer is never more than one epoch behind.
func (s *sealer) due(now time.Duration, confirmed uint64) bool {
	n := s.counter - s.first
	return n >= maxEpoch || confirmed > s.first && (n >= s.packets || now-s.since >= rekeyAfter)
}

func (s *sealer) ratchet(now time.Duration) {
	next := s.key.after(s.aes)
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
	epoch            byte     // of cur
	prevUntil        time.Duration
	window           replayWindow
	nonce            [headerBytes]byte
	rejected, replay uint64
}

func newOpener(secret [32]byte, useAES bool) opener {
	o := opener{aes: useAES, cur: newEpochKey(secret, useAES)}
	o.next = o.cur.after(useAES)
	return o
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
	key := &o.cur
	switch step {
	case 1:
		key = &o.next
	case 3:
		o.expire(now)
		key = &o.prev
	case 2:
		key = nil
	}
	if key == nil || key.aead == nil {
		o.rejected++
		return nil, false, false
	}
	binary.BigEndian.PutUint64(o.nonce[4:], c)
	plain, err := key.aead.Open(p[headerBytes:headerBytes], o.nonce[:], p[headerBytes:], p[:headerBytes])
	if err != nil {
		o.rejected++
		return nil, false, false
	}
	if step == 1 {
		o.prev, o.prevUntil = o.cur, now+oldEpochFor
		o.cur = o.next
		o.next = o.cur.after(o.aes)
		o.epoch = (o.epoch + 1) & 3
	}
	return plain, o.window.accept(c), true
}

// expire erases the last epoch's key when its time is over.
func (o *opener) expire(now time.Duration) {
	if o.prev.aead != nil && now >= o.prevUntil {
		o.prev.erase()
	}
}
