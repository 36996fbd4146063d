package handshake

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha512"
	"fmt"
	"strings"

	"github.com/gtank/ristretto255"
)

// CPACE-RISTR255-SHA512 of draft-irtf-cfrg-cpace-21, in its initiator-responder form. The group has
// prime order and one encoding per element, so that decoding is all the checking a share needs apart
// from the identity.

const (
	cpaceDSI   = "CPaceRistretto255"                   // domain of the generator
	cpaceISK   = cpaceDSI + "_ISK"                     // domain of the session key
	cpaceShare = 32                                    // bytes of an encoded element
	cpaceSuite = versionLabel + " IXpsk0 " + suiteName // what both sides will do with the key
)

// PAKEMessageLen is the length of a PAKE message in bytes: a version and a group element.
//
//	0        1                              33
//	[version][ristretto255 element Ya or Yb ]
const PAKEMessageLen = 1 + cpaceShare

// Bounds on the sid that NewPAKE takes. The draft wants it unique per run; 16 random bytes are.
const (
	MinSID = 16
	MaxSID = 64
)

// A PAKE is one side of one CPace run: one Code, one peer, one guess for whoever does not know the words.
type PAKE struct {
	initiator bool
	sid       []byte
	y         *ristretto255.Scalar // nil once Finish was called
	message   []byte
}

// NewPAKE starts a run for the words of code. The initiator is the creator of the room, whose message
// goes first; sid is what the creator chose for this room (MinSID to MaxSID random bytes) and passes
// on in clear. The nameplate is bound into the run, but nothing that leaves this package depends on the
// words in a way that could be tested offline. It fails with ErrCode for a code that ParseCode would
// not return, and for a sid of another length.
func NewPAKE(code Code, sid []byte, initiator bool) (*PAKE, error) {
	if err := code.Check(); err != nil {
		return nil, err
	}
	if len(sid) < MinSID || len(sid) > MaxSID {
		return nil, fmt.Errorf("start pake: session id of %d bytes, want %d to %d", len(sid), MinSID, MaxSID)
	}
	y := ristretto255.NewScalar()
	for y.Equal(ristretto255.NewScalar()) == 1 { // a zero scalar would make our share the identity
		var wide [64]byte
		rand.Read(wide[:]) // never fails: crypto/rand ends the process instead
		if _, err := y.SetUniformBytes(wide[:]); err != nil {
			return nil, fmt.Errorf("start pake: choose scalar: %v", err)
		}
	}
	prs := []byte(strings.ToLower(strings.Join(code.Words[:], "-")))
	fullSID := lvCat(sid, []byte(code.Nameplate))
	ci := lvCat([]byte("adit-cpace/1"), []byte("creator"), []byte("joiner"))
	share := cpaceMult(y, cpaceGenerator(prs, ci, fullSID))
	return &PAKE{
		initiator: initiator,
		sid:       fullSID,
		y:         y,
		message:   append([]byte{version}, share.Bytes()...),
	}, nil
}

// Message returns what to send to the peer, PAKEMessageLen bytes. The caller owns the slice.
func (p *PAKE) Message() []byte { return bytes.Clone(p.message) }

// Finish takes the peer's message and returns the key, which equals the peer's if the words, nameplates,
// sids and roles do. That it does is not known here: the handshake that uses the key as Config.PSK tells.
// Finish may be called once, whatever it returns: another guess needs another code. It fails with
// ErrMalformed or ErrVersion for what is no message of ours, with ErrAuth for an element no honest peer
// sends, and with ErrState when called again.
func (p *PAKE) Finish(peer []byte) (psk [32]byte, err error) {
	if p.y == nil {
		return psk, fmt.Errorf("finish pake a second time: %w", ErrState)
	}
	y := p.y
	p.y = nil
	switch {
	case len(peer) == 0:
		return psk, fmt.Errorf("finish pake: empty message: %w", ErrMalformed)
	case peer[0] != version:
		return psk, fmt.Errorf("finish pake: peer's version is %d, ours %d: %w", peer[0], version, ErrVersion)
	case len(peer) != PAKEMessageLen:
		return psk, fmt.Errorf("finish pake: message of %d bytes, want %d: %w", len(peer), PAKEMessageLen, ErrMalformed)
	case bytes.Equal(peer, p.message):
		// Harmless with ordered transcripts, but an honest peer never chooses our scalar.
		return psk, fmt.Errorf("finish pake: our own message came back: %w", ErrAuth)
	}
	k, ok := cpaceMultVerify(y, peer[1:])
	if !ok {
		return psk, fmt.Errorf("finish pake: peer's element is not valid: %w", ErrAuth)
	}
	ya, yb := p.message[1:], peer[1:]
	if !p.initiator {
		ya, yb = yb, ya
	}
	ad := []byte(cpaceSuite) // the same on both sides: there is one version
	isk := cpaceSessionKey(p.sid, k, ya, ad, yb, ad)
	key, err := hkdf.Key(sha512.New, isk, nil, versionLabel+" code psk", len(psk))
	if err != nil {
		return psk, fmt.Errorf("finish pake: derive key: %v", err)
	}
	copy(psk[:], key)
	return psk, nil
}

// cpaceGenerator is calculate_generator: the password decides the base point, and nobody knows its
// discrete logarithm.
func cpaceGenerator(prs, ci, sid []byte) *ristretto255.Element {
	// The padding fills the first hash block, so that hashing takes the same time up to there for
	// every password.
	pad := max(0, sha512.BlockSize-1-len(lvCat(prs))-len(lvCat([]byte(cpaceDSI))))
	h := sha512.Sum512(lvCat([]byte(cpaceDSI), prs, make([]byte, pad), ci, sid))
	g, err := ristretto255.NewIdentityElement().SetUniformBytes(h[:])
	if err != nil {
		panic("handshake: 64 bytes are not 64 bytes: " + err.Error())
	}
	return g
}

// cpaceMult is scalar_mult.
func cpaceMult(y *ristretto255.Scalar, g *ristretto255.Element) *ristretto255.Element {
	return ristretto255.NewIdentityElement().ScalarMult(y, g)
}

// cpaceMultVerify is scalar_mult_vfy: y times the element that share encodes. It reports false for
// what is not a canonical encoding and for the identity, which would make the result the same for
// every y.
func cpaceMultVerify(y *ristretto255.Scalar, share []byte) (k []byte, ok bool) {
	identity := ristretto255.NewIdentityElement()
	if len(share) != cpaceShare {
		return nil, false
	}
	e, err := ristretto255.NewIdentityElement().SetCanonicalBytes(share)
	if err != nil || e.Equal(identity) == 1 {
		return nil, false
	}
	r := cpaceMult(y, e)
	if r.Equal(identity) == 1 {
		return nil, false
	}
	return r.Bytes(), true
}

// cpaceSessionKey hashes the run in the order of its messages: the draft's ISK with transcript_ir.
func cpaceSessionKey(sid, k, ya, ada, yb, adb []byte) []byte {
	h := sha512.New()
	h.Write(lvCat([]byte(cpaceISK), sid, k))
	h.Write(lvCat(ya, ada, yb, adb))
	return h.Sum(nil)
}

// lvCat is the draft's lv_cat: each part after its length in LEB128, so that no two lists of parts give
// the same bytes.
func lvCat(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		n := len(p)
		for ; n >= 0x80; n >>= 7 {
			out = append(out, byte(n)|0x80)
		}
		out = append(out, byte(n))
		out = append(out, p...)
	}
	return out
}
