package handshake

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"github.com/flynn/noise"
)

// RekeyLen is the length of both messages of a rekeying, in bytes: an ephemeral key and a tag.
const RekeyLen = keyLen + tagLen

// A Rekeying is the initiator's half of an exchange that puts fresh keys in the place of a Result's:
// Noise KKpsk0 (noise revision 34, sections 7.5 and 9) between the static keys that the handshake before has
// authenticated, with a psk that only the holders of its keys can derive.
//
//	initiator   psk, e, es, ss      48 bytes
//	responder   e, ee, se           48 bytes
//
// Who has stolen the keys of the session so far, and not a static key, can neither take part nor read
// what is sealed afterwards: the ephemeral Diffie-Hellman is unknown to him. Who has stolen a static key
// alone lacks the psk. The number counts the rekeyings of a session from 1; it and the binding of the
// handshake before are part of the prologue, so that messages fit one place in one session only.
type Rekeying struct {
	last *Result
	conf noise.Config
	seed [32]byte // of the ephemeral key
	msg  []byte
	over bool
}

// Rekey begins the rekeying with a number, as the initiator of the handshake that ended with r. It is ErrState on
// the responder's side, and once r is erased.
func (r *Result) Rekey(number uint32) (*Rekeying, error) {
	if !r.Initiator {
		return nil, fmt.Errorf("begin a rekeying as the responder: %w", ErrState)
	}
	c, err := r.rekeyConfig(number)
	if err != nil {
		return nil, err
	}
	k := &Rekeying{last: r, conf: c}
	rand.Read(k.seed[:]) // never fails: crypto/rand ends the process instead
	if _, k.msg, err = k.start(); err != nil {
		return nil, err
	}
	return k, nil
}

// Message is what the peer has to get. It is the same whenever it is asked for.
func (k *Rekeying) Message() []byte { return k.msg }

// start brings a Noise state to where the message has been sent. See Initiator.start.
func (k *Rekeying) start() (*noise.HandshakeState, []byte, error) {
	c := k.conf
	c.Random = bytes.NewReader(k.seed[:])
	hs, err := noise.NewHandshakeState(c)
	if err != nil {
		return nil, nil, fmt.Errorf("begin rekeying: %v", err)
	}
	msg, _, _, err := hs.WriteMessage(nil, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("begin rekeying: %v", err)
	}
	return hs, msg, nil
}

// Finish reads the peer's message and returns the fresh keys. It may be tried again after ErrMalformed and ErrAuth;
// once it has succeeded it is ErrState.
func (k *Rekeying) Finish(answer []byte) (*Result, error) {
	if k.over {
		return nil, fmt.Errorf("finish a rekeying twice: %w", ErrState)
	}
	if len(answer) != RekeyLen {
		return nil, fmt.Errorf("finish rekeying: %d bytes, want %d: %w", len(answer), RekeyLen, ErrMalformed)
	}
	hs, send, recv, err := k.read(answer)
	if err != nil {
		return nil, err
	}
	next, err := newResult(hs, send.UnsafeKey(), recv.UnsafeKey(), true)
	if err != nil {
		return nil, err
	}
	next.inherit(k.last)
	k.over, k.seed, k.conf = true, [32]byte{}, noise.Config{}
	return next, nil
}

// read brings a Noise state to its end.
func (k *Rekeying) read(answer []byte) (hs *noise.HandshakeState, send, recv *noise.CipherState, err error) {
	if hs, _, err = k.start(); err != nil {
		return nil, nil, nil, err
	}
	if _, send, recv, err = hs.ReadMessage(nil, answer); err != nil {
		return nil, nil, nil, fmt.Errorf("finish rekeying: %v: %w", err, ErrAuth)
	}
	return hs, send, recv, nil
}

// AnswerRekey answers a peer's rekeying with a number, as the responder of the handshake that ended with r,
// and returns the fresh keys. r stays as it is: a message that is refused changes nothing. The answer is
// another one each time; the caller keeps the first, for a peer that asks twice. It fails with ErrMalformed, ErrAuth and
// ErrState.
func (r *Result) AnswerRekey(number uint32, msg []byte) (answer []byte, next *Result, err error) {
	if r.Initiator {
		return nil, nil, fmt.Errorf("answer a rekeying as the initiator: %w", ErrState)
	}
	if len(msg) != RekeyLen {
		return nil, nil, fmt.Errorf("answer rekeying: %d bytes, want %d: %w", len(msg), RekeyLen, ErrMalformed)
	}
	c, err := r.rekeyConfig(number)
	if err != nil {
		return nil, nil, err
	}
	hs, answer, recv, send, err := answerRekey(c, msg)
	if err != nil {
		return nil, nil, err
	}
	if next, err = newResult(hs, send.UnsafeKey(), recv.UnsafeKey(), false); err != nil {
		return nil, nil, err
	}
	next.inherit(r)
	return answer, next, nil
}

func answerRekey(c noise.Config, msg []byte) (hs *noise.HandshakeState, answer []byte, recv, send *noise.CipherState, err error) {
	if hs, err = noise.NewHandshakeState(c); err != nil {
		return nil, nil, nil, nil, fmt.Errorf("answer rekeying: %v", err)
	}
	if _, _, _, err = hs.ReadMessage(nil, msg); err == nil {
		answer, recv, send, err = hs.WriteMessage(nil, nil)
	}
	if err != nil {
		return nil, nil, nil, nil, fmt.Errorf("answer rekeying: %v: %w", err, ErrAuth)
	}
	return hs, answer, recv, send, nil
}

func (r *Result) rekeyConfig(number uint32) (noise.Config, error) {
	if r.exporter == nil {
		return noise.Config{}, fmt.Errorf("rekey with keys that are erased: %w", ErrState)
	}
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], number)
	return noise.Config{
		CipherSuite:   noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s),
		Pattern:       noise.HandshakeKK,
		Initiator:     r.Initiator,
		Prologue:      lvCat([]byte(versionLabel+" rekey"), r.Binding[:], n[:]),
		PresharedKey:  r.Exporter("rekey", 32),
		StaticKeypair: r.static,
		PeerStatic:    bytes.Clone(r.PeerStatic[:]),
	}, nil
}

// inherit takes over what a rekeying does not negotiate.
func (r *Result) inherit(from *Result) {
	r.Suite, r.PeerKept, r.static = from.Suite, from.PeerKept, from.static
}

// EraseLinkKeys forgets Send and Recv, once the link has them: its ratchet goes on from there, and what was
// sealed before must not open again.
func (r *Result) EraseLinkKeys() { r.Send, r.Recv = [32]byte{}, [32]byte{} }

// Erase forgets every secret of r: Rekey, AnswerRekey and Exporter are not to be called any more. What r says about
// the peer, and the words, stay.
func (r *Result) Erase() {
	r.EraseLinkKeys()
	clear(r.exporter)
	r.exporter, r.static = nil, noise.DHKey{}
}
