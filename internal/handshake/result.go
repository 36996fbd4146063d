package handshake

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/flynn/noise"
	"github.com/tyler-smith/go-bip39/wordlists"
)

// wordCount words of wordBits each are 44 bits: a man in the middle passes once in 1.7e13 tries.
const wordCount = 4

// A Result is what a finished handshake leaves to its side.
type Result struct {
	// Send and Recv are the link keys of the first epoch, one a direction: one side's Send is the
	// other's Recv.
	Send, Recv [32]byte
	// Suite is the AEAD for the link, the same on both sides.
	Suite Suite
	// Binding names this very handshake: the hash of everything that was said in it. It is no secret.
	Binding [32]byte
	// PeerStatic is the peer's static public key, proved to be theirs (to the responder only once
	// a packet sealed with Recv has opened).
	PeerStatic [32]byte
	// PeerKept says that the peer keeps this static key, and offers to be known by it later.
	PeerKept bool
	// Initiator says which side this is.
	Initiator bool

	static     noise.DHKey // ours, for a rekeying
	exporter   []byte      // nil once erased
	nonceA     [nonceALen]byte
	nonceB     [nonceBLen]byte
	commitment [commitmentLen]byte // responder: what nonceA must hash to
	knowA      bool                // nonceA is filled in, and verified
}

// newResult takes what both sides have at the end of the Noise exchange; the nonces are filled in by
// the caller.
func newResult(hs *noise.HandshakeState, send, recv [32]byte, initiator bool) (*Result, error) {
	r := &Result{Initiator: initiator}
	if n := copy(r.Binding[:], hs.ChannelBinding()); n != len(r.Binding) {
		return nil, fmt.Errorf("finish handshake: hash of %d bytes", n)
	}
	if n := copy(r.PeerStatic[:], hs.PeerStatic()); n != len(r.PeerStatic) {
		return nil, fmt.Errorf("finish handshake: peer key of %d bytes", n)
	}
	toResponder, toInitiator := send, recv
	out, in := "offerer to answerer", "answerer to offerer"
	if !initiator {
		toResponder, toInitiator = recv, send
		out, in = in, out
	}
	both := append(append([]byte{}, toResponder[:]...), toInitiator[:]...)
	var errs [3]error
	derive := func(i int, secret []byte, label string) []byte {
		var k []byte
		k, errs[i] = hkdf.Key(sha256.New, secret, r.Binding[:], versionLabel+" "+label, 32)
		return k
	}
	copy(r.Send[:], derive(0, send[:], "link "+out))
	copy(r.Recv[:], derive(1, recv[:], "link "+in))
	r.exporter = derive(2, both, "exporter")
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("finish handshake: derive keys: %v", err)
	}
	return r, nil
}

// Exporter returns n secret bytes that only the two sides can derive, the same on both for the same
// label, unrelated to the link keys and to other labels. n is at most 8160; more is a bug and panics, and so
// is a Result that was erased.
func (r *Result) Exporter(label string, n int) []byte {
	if r.exporter == nil {
		panic("handshake: export of keys that are erased")
	}
	b, err := hkdf.Expand(sha256.New, r.exporter, versionLabel+" export "+label, n)
	if err != nil {
		panic(fmt.Sprintf("handshake: export %d bytes: %v", n, err))
	}
	return b
}

// Reveal returns what the initiator must send to the responder over the finished link, for its
// Verify: 32 bytes. It is nil for the responder, and in ModeKey, where there is nothing to compare.
func (r *Result) Reveal() []byte {
	if !r.Initiator || !r.knowA {
		return nil
	}
	return append([]byte(nil), r.nonceA[:]...)
}

// Verify takes what the initiator's Reveal returned. It fails with ErrAuth if that is not what the
// offer committed to: the link is not to be trusted then. Afterwards Words is available. On the
// initiator's side it fails with ErrState.
func (r *Result) Verify(reveal []byte) error {
	if r.Initiator {
		return fmt.Errorf("verify our own commitment: %w", ErrState)
	}
	if len(reveal) != nonceALen {
		return fmt.Errorf("verify commitment: %d bytes, want %d: %w", len(reveal), nonceALen, ErrAuth)
	}
	c := commit(reveal)
	if subtle.ConstantTimeCompare(c[:], r.commitment[:]) != 1 {
		return fmt.Errorf("verify commitment: the peer did not keep it: %w", ErrAuth)
	}
	copy(r.nonceA[:], reveal)
	r.knowA = true
	return nil
}

// Words returns the four verification words, equal on both sides unless somebody sits in the middle
// (who has one guess at 44 bits). The initiator has them at once, the responder once Verify returned
// nil; until then ok is false.
func (r *Result) Words() (words []string, ok bool) {
	if !r.knowA {
		return nil, false
	}
	h := sha256.New()
	h.Write([]byte(versionLabel + " words"))
	h.Write(r.Binding[:]) // fixed lengths from here on
	h.Write(r.nonceA[:])
	h.Write(r.nonceB[:])
	bits := binary.BigEndian.Uint64(h.Sum(nil))
	for range wordCount {
		words = append(words, wordlists.English[bits>>(64-wordBits)])
		bits <<= wordBits
	}
	return words, true
}

// commit hashes N_a, which is random and long enough to hide itself.
func commit(nonceA []byte) (c [commitmentLen]byte) {
	h := sha256.New()
	h.Write([]byte(versionLabel + " commitment"))
	h.Write(nonceA)
	copy(c[:], h.Sum(nil))
	return c
}
