package handshake

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/flynn/noise"
)

// A Mode says how the two peers met, and so which Noise pattern they run. Both sides must agree on it.
type Mode uint8

const (
	// ModePaste runs Noise IX: for channels that carry messages whole and unaltered.
	ModePaste Mode = 1
	// ModeCode runs Noise IXpsk0 with the key of a PAKE: for channels that nobody trusts.
	ModeCode Mode = 2
	// ModeKey runs Noise IK: the initiator knows the responder's static key, the responder a list of those
	// that it admits.
	ModeKey Mode = 3
)

// What our framing puts before the caller's payload, inside the Noise payload. Offer:
//
//	0      1                   25
//	[flags][commitment to N_a ][payload ...]
//
// Answer:
//
//	0      1       17
//	[flags][N_b   ][payload ...]
//
// In ModeKey the offer has the challenge that it answers, 16 bytes, in the place of the commitment, and the
// answer has no nonce.
//
// flags is VVVV 00LA: the version in the high half, L set if the static key of this side is one that it
// keeps and offers to be known by, and A set if this side has AES instructions. The two bits between are
// sent as zero and ignored, so that later versions may use them for offers.
const (
	flagAES   = 0x01
	flagKept  = 0x02
	flagsLen  = 1
	nonceALen = 32
	nonceBLen = 16
	// A commitment of 24 bytes takes 2^96 hashes to open in two ways, and whoever did would have won
	// a second guess at the words. The eight bytes saved are eleven characters of a pasted line.
	commitmentLen = 24

	offerFrame  = flagsLen + commitmentLen
	answerFrame = flagsLen + nonceBLen

	keyLen = 32
	tagLen = 16
)

// MaxMessage is the largest offer or answer, in bytes: what a rendezvous carries in one piece.
const MaxMessage = 16 << 10

// MaxPayload is the largest payload of an offer or an answer, in bytes, in either mode.
const MaxPayload = MaxMessage - OfferOverheadCode

// How many bytes a message is longer than its payload.
const (
	OfferOverheadPaste = keyLen + keyLen + offerFrame                    // 89
	OfferOverheadCode  = keyLen + keyLen + tagLen + offerFrame + tagLen  // 121
	AnswerOverhead     = keyLen + keyLen + tagLen + answerFrame + tagLen // 113

	OfferOverheadKey  = keyLen + keyLen + tagLen + flagsLen + ChallengeLen + tagLen // 113
	AnswerOverheadKey = keyLen + flagsLen + tagLen                                  // 49
)

const suiteName = "25519_ChaChaPoly_BLAKE2s"

// A KeyPair is a static X25519 key. Make one with NewKeyPair or KeyPairFrom.
type KeyPair struct {
	Private, Public [32]byte

	of [64]byte // both halves, where KeyPairFrom has put them together
}

// NewKeyPair makes a random key.
func NewKeyPair() *KeyPair {
	var private [32]byte
	rand.Read(private[:]) // never fails: crypto/rand ends the process instead
	return KeyPairFrom(private)
}

// KeyPairFrom returns the pair of a private key, which may be any 32 bytes.
func KeyPairFrom(private [32]byte) *KeyPair {
	k, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		panic("handshake: 32 bytes are no x25519 key: " + err.Error())
	}
	p := &KeyPair{Private: private, Public: [32]byte(k.PublicKey().Bytes())}
	p.of = p.halves()
	return p
}

func (k *KeyPair) halves() (b [64]byte) {
	copy(b[:32], k.Private[:])
	copy(b[32:], k.Public[:])
	return b
}

// A Config says what both sides must agree on, and who this side is. It is read only by NewInitiator
// and NewResponder, which copy what they keep.
type Config struct {
	// Mode must be set.
	Mode Mode
	// PSK is the 32 bytes of PAKE.Finish in ModeCode, and empty in ModePaste.
	PSK []byte
	// Context is anything else that both sides must see alike, such as the name of the room. It is
	// bound into the handshake together with the protocol version and the mode, and not sent.
	Context []byte
	// Static is this side's long-term key; nil means a fresh one. ModeKey needs one.
	Static *KeyPair
	// Keep offers Static to the peer as a key to know this side by: see Result.PeerKept. ModeKey implies it.
	Keep bool
	// Peer is, for an initiator in ModeKey, the responder's static key.
	Peer [32]byte
	// Challenge is, for an initiator in ModeKey, what the responder published last: see Guard.
	Challenge Challenge
	// Allow says, for a responder in ModeKey, whether a static key may go on. It is asked before anything
	// is computed with the key, and once for each offer.
	Allow func(static [32]byte) bool
	// Guard refuses, for a responder in ModeKey, offers that were there before. Responders share it.
	Guard *Guard
	// NoAES makes this side ask for ChaCha20-Poly1305 whatever the processor can do.
	NoAES bool
}

// side is what Initiator and Responder have in common.
type side struct {
	mode      Mode
	guard     *Guard
	challenge Challenge
	noise     noise.Config
	flags     byte
	static    [32]byte // our public key
}

func newSide(c Config, initiator bool) (*side, error) {
	switch c.Mode {
	case ModePaste:
		if len(c.PSK) != 0 {
			return nil, errors.New("configure handshake: a psk without mode code")
		}
	case ModeCode:
		if len(c.PSK) != 32 {
			return nil, fmt.Errorf("configure handshake: psk of %d bytes, want 32", len(c.PSK))
		}
		if subtle.ConstantTimeCompare(c.PSK, make([]byte, 32)) == 1 {
			return nil, errors.New("configure handshake: psk is all zero") // nobody filled it in
		}
	case ModeKey:
		switch {
		case len(c.PSK) != 0:
			return nil, errors.New("configure handshake: a psk without mode code")
		case c.Static == nil:
			return nil, errors.New("configure handshake: mode key without a static key")
		case initiator && c.Peer == [32]byte{}:
			return nil, errors.New("configure handshake: mode key without the peer's key")
		case !initiator && (c.Allow == nil || c.Guard == nil):
			return nil, errors.New("configure handshake: mode key without a list or a guard")
		}
	default:
		return nil, fmt.Errorf("configure handshake: unknown mode %d", c.Mode)
	}
	static := c.Static
	if static == nil {
		static = NewKeyPair()
	} else if static.of != static.halves() && KeyPairFrom(static.Private).Public != static.Public {
		return nil, errors.New("configure handshake: the static key's halves do not belong together")
	}
	s := &side{
		mode:   c.Mode,
		flags:  version << 4,
		static: static.Public,
		noise: noise.Config{
			CipherSuite:  noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s),
			Pattern:      noise.HandshakeIX,
			Initiator:    initiator,
			Prologue:     lvCat([]byte(versionLabel), []byte{byte(c.Mode)}, c.Context),
			PresharedKey: bytes.Clone(c.PSK),
			StaticKeypair: noise.DHKey{
				Private: bytes.Clone(static.Private[:]),
				Public:  bytes.Clone(static.Public[:]),
			},
		},
	}
	if c.Mode == ModeKey {
		s.guard, s.challenge = c.Guard, c.Challenge
		s.noise.Pattern = noise.HandshakeIK
		if initiator {
			s.noise.PeerStatic = bytes.Clone(c.Peer[:])
		} else {
			s.noise.CipherSuite = noise.NewCipherSuite(&listedDH{DHFunc: noise.DH25519, allow: c.Allow}, noise.CipherChaChaPoly, noise.HashBLAKE2s)
		}
	}
	if hasAES() && !c.NoAES {
		s.flags |= flagAES
	}
	if c.Keep || c.Mode == ModeKey {
		s.flags |= flagKept
	}
	return s, nil
}

// checkFlags looks at the first byte of a frame.
func checkFlags(flags byte) error {
	if v := flags >> 4; v != version {
		return fmt.Errorf("peer's version is %d, ours %d: %w", v, version, ErrVersion)
	}
	return nil
}

func checkLen(what string, msg []byte, least int) error {
	if len(msg) < least || len(msg) > MaxMessage {
		return fmt.Errorf("read %s: %d bytes, want %d to %d: %w", what, len(msg), least, MaxMessage, ErrMalformed)
	}
	return nil
}

func checkPayload(what string, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("write %s: payload of %d bytes, at most %d fit", what, len(payload), MaxPayload)
	}
	return nil
}

// progress is how far an Initiator or a Responder has come.
type progress uint8

const (
	fresh   progress = iota // nothing sent or read
	halfway                 // the offer is sent, or read
	over                    // finished, or failed for good
)

// An Initiator makes the offer and reads the answer.
type Initiator struct {
	*side
	at     progress
	seed   [32]byte        // of the ephemeral key
	nonceA [nonceALen]byte // N_a, to be revealed over the link
	frame  []byte          // the offer's Noise payload
}

// NewInitiator returns an Initiator for one handshake, or says what is wrong with c.
func NewInitiator(c Config) (*Initiator, error) {
	s, err := newSide(c, true)
	if err != nil {
		return nil, err
	}
	return &Initiator{side: s}, nil
}

// Offer returns the message to send, with payload in it: readable by anyone in ModePaste, by who knows the
// psk in ModeCode, by who has the responder's static key, now or later, in ModeKey. It may be called once. It retains nothing of payload.
func (i *Initiator) Offer(payload []byte) ([]byte, error) {
	if i.at != fresh {
		return nil, fmt.Errorf("write a second offer: %w", ErrState)
	}
	if err := checkPayload("offer", payload); err != nil {
		return nil, err
	}
	rand.Read(i.seed[:]) // never fails: crypto/rand ends the process instead
	rand.Read(i.nonceA[:])
	i.frame = append(i.frame, i.flags)
	if i.mode == ModeKey {
		i.frame = append(i.frame, i.challenge[:]...)
	} else {
		commitment := commit(i.nonceA[:])
		i.frame = append(i.frame, commitment[:]...)
	}
	i.frame = append(i.frame, payload...)
	_, msg, err := i.start()
	if err != nil {
		return nil, err
	}
	i.at = halfway
	return msg, nil
}

// start brings a Noise state to where the offer has been sent. Finish does it anew for each answer it
// reads: a state that has met a bad answer is not fit for the next.
func (i *Initiator) start() (*noise.HandshakeState, []byte, error) {
	c := i.noise
	c.Random = bytes.NewReader(i.seed[:])
	hs, err := noise.NewHandshakeState(c)
	if err != nil {
		return nil, nil, fmt.Errorf("write offer: %v", err)
	}
	msg, _, _, err := hs.WriteMessage(nil, i.frame)
	if err != nil {
		return nil, nil, fmt.Errorf("write offer: %v", err)
	}
	return hs, msg, nil
}

// Finish reads the answer and returns its payload and the keys. In ModePaste and ModeKey it may be tried
// again after an error: a person may have pasted the wrong line, and there is nothing to guess. In ModeCode the first
// error is final. It fails with ErrMalformed, ErrVersion, ErrAuth or ErrState.
func (i *Initiator) Finish(answer []byte) (payload []byte, r *Result, err error) {
	if i.at != halfway {
		return nil, nil, fmt.Errorf("read an answer: %w", ErrState)
	}
	if i.mode == ModeCode {
		i.at = over
	}
	least, framed := AnswerOverhead, answerFrame
	if i.mode == ModeKey {
		least, framed = AnswerOverheadKey, flagsLen
	}
	if err := checkLen("answer", answer, least); err != nil {
		return nil, nil, err
	}
	hs, _, err := i.start()
	if err != nil {
		return nil, nil, err
	}
	frame, send, recv, err := hs.ReadMessage(nil, answer)
	if err != nil {
		return nil, nil, fmt.Errorf("read answer: %v: %w", err, ErrAuth)
	}
	if err := checkFlags(frame[0]); err != nil {
		return nil, nil, fmt.Errorf("read answer: %w", err)
	}
	r, err = newResult(hs, send.UnsafeKey(), recv.UnsafeKey(), true)
	if err != nil {
		return nil, nil, err
	}
	r.Suite, r.PeerKept, r.static = choose(i.flags, frame[0]), frame[0]&flagKept != 0, i.noise.StaticKeypair
	if i.mode != ModeKey {
		r.nonceA, r.knowA = i.nonceA, true
		copy(r.nonceB[:], frame[flagsLen:])
	}
	i.at, i.seed, i.frame = over, [32]byte{}, nil
	return frame[framed:], r, nil
}

// A Responder reads the offer and makes the answer.
type Responder struct {
	*side
	at         progress
	hs         *noise.HandshakeState // after Open
	peerFlags  byte
	commitment [commitmentLen]byte
}

// NewResponder returns a Responder for one handshake, or says what is wrong with c.
func NewResponder(c Config) (*Responder, error) {
	s, err := newSide(c, false)
	if err != nil {
		return nil, err
	}
	return &Responder{side: s}, nil
}

// Open reads the offer and returns its payload. In ModePaste nothing vouches for the payload yet: an
// altered one is noticed by the initiator, who cannot read the answer then. An Open that failed may be
// tried again in ModePaste; in ModeCode the first error is final, since whoever sent that offer has had
// the one guess. In ModeKey an offer of a key that is not on the list costs one X25519, whatever else is in
// it, and a Responder is for one offer. It fails with ErrMalformed, ErrVersion, ErrAuth or ErrState, in
// ModeKey with ErrStranger and ErrReplay too.
func (r *Responder) Open(offer []byte) (payload []byte, err error) {
	if r.at != fresh {
		return nil, fmt.Errorf("open an offer: %w", ErrState)
	}
	least := OfferOverheadPaste
	switch r.mode {
	case ModeCode:
		least = OfferOverheadCode
		r.at = over
	case ModeKey:
		least = OfferOverheadKey
		r.at = over
	}
	if err := checkLen("offer", offer, least); err != nil {
		return nil, err
	}
	hs, err := noise.NewHandshakeState(r.noise)
	if err != nil {
		return nil, fmt.Errorf("open offer: %v", err)
	}
	frame, _, _, err := hs.ReadMessage(nil, offer)
	switch {
	case errors.Is(err, ErrStranger):
		return nil, fmt.Errorf("open offer: %w", ErrStranger)
	case err != nil:
		return nil, fmt.Errorf("open offer: %v: %w", err, ErrAuth)
	}
	if err := checkFlags(frame[0]); err != nil {
		return nil, fmt.Errorf("open offer: %w", err)
	}
	if r.mode == ModeKey {
		// The ephemeral key is authenticated, and never twice the same: it names the offer.
		if err := r.guard.admit(Challenge(frame[flagsLen:]), [32]byte(offer)); err != nil {
			return nil, fmt.Errorf("open offer: %w", err)
		}
		r.at, r.hs, r.peerFlags = halfway, hs, frame[0]
		return frame[flagsLen+ChallengeLen:], nil
	}
	r.at, r.hs, r.peerFlags = halfway, hs, frame[0]
	copy(r.commitment[:], frame[flagsLen:])
	return frame[offerFrame:], nil
}

// Peer returns the initiator's static key after Open in ModeKey, where the list admitted it; the zero key
// otherwise.
func (r *Responder) Peer() (k [32]byte) {
	if r.mode == ModeKey && r.hs != nil {
		copy(k[:], r.hs.PeerStatic())
	}
	return k
}

// Answer returns the message to send back, with payload sealed in it, and the keys. Nothing has
// proved yet that the initiator lives: expose nothing before a packet of theirs has opened. Answer may be
// called once, after Open; it fails with ErrState otherwise, and with ErrAuth for an offer whose keys
// no honest peer sends.
func (r *Responder) Answer(payload []byte) (msg []byte, res *Result, err error) {
	if r.at != halfway {
		return nil, nil, fmt.Errorf("write an answer: %w", ErrState)
	}
	if err := checkPayload("answer", payload); err != nil {
		return nil, nil, err
	}
	r.at = over
	var nonceB [nonceBLen]byte
	frame := make([]byte, 0, answerFrame+len(payload))
	frame = append(frame, r.flags)
	if r.mode != ModeKey {
		rand.Read(nonceB[:]) // never fails: crypto/rand ends the process instead
		frame = append(frame, nonceB[:]...)
	}
	frame = append(frame, payload...)
	// Randomness never fails, so what can fail is a Diffie-Hellman with a low-order key of the peer's.
	msg, recv, send, err := r.hs.WriteMessage(nil, frame)
	if err != nil {
		return nil, nil, fmt.Errorf("write answer: %v: %w", err, ErrAuth)
	}
	res, err = newResult(r.hs, send.UnsafeKey(), recv.UnsafeKey(), false)
	if err != nil {
		return nil, nil, err
	}
	res.Suite, res.PeerKept, res.static = choose(r.flags, r.peerFlags), r.peerFlags&flagKept != 0, r.noise.StaticKeypair
	res.nonceB, res.commitment = nonceB, r.commitment
	r.hs = nil
	return msg, res, nil
}

// choose picks the suite from both sides' flags.
func choose(a, b byte) Suite {
	if a&b&flagAES != 0 {
		return AES256GCM
	}
	return ChaCha20Poly1305
}
