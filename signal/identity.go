package signal

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
)

// Where the holder of an identity is met. The name of his mailbox is a blinded form of his public key: who
// knows the key can compute it, and who knows the name learns nothing about the key, so that a rendezvous
// serves people that it does not know. The name is a public key itself, and its private key is that of the
// identity times a factor that everybody knows who knows the identity:
//
//	P = a·G                       the identity, an X25519 key
//	h = SHA-256(label, P)         the factor, clamped like any X25519 private key
//	N = h·P                       the name
//	B = b·G                       the server's key
//	b·N = h·(a·B)                 what only the server and the identity's holder can compute
//
// The products are X25519s of RFC 7748, which multiply whatever point they are given.

// KeyNameLen is the length of the name of a mailbox by key, in bytes.
const KeyNameLen = 32

// A KeyName is the name of a mailbox by key.
type KeyName [KeyNameLen]byte

// ErrClaim says that a proof does not come from the holder of a mailbox's key.
var ErrClaim = errors.New("no proof of holding the key")

const (
	keyNameLabel  = "adit/1 mailbox of key"
	keyClaimLabel = "adit/1 claim of mailbox"
)

// KeyNameOf returns the name of the mailbox of a public key. It fails for what is no key.
func KeyNameOf(public [32]byte) (KeyName, error) {
	b, err := multiply(blinding(public), public[:])
	if err != nil {
		return KeyName{}, fmt.Errorf("name the mailbox of a key: %v", err)
	}
	return KeyName(b), nil
}

// blinding returns h.
func blinding(public [32]byte) []byte {
	h := sha256.New()
	h.Write([]byte(keyNameLabel))
	h.Write(public[:])
	return h.Sum(nil)
}

// ProveKey returns the proof that this side holds the private key of a mailbox: a MAC of the server's nonce and
// of the host that the server is asked as, so that no server can pass a proof on to another. It fails for a
// server's key that is none.
func ProveKey(private, server [32]byte, nonce []byte, host string) ([]byte, error) {
	k, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		return nil, fmt.Errorf("prove a key: %v", err)
	}
	shared, err := multiply(private[:], server[:])
	if err == nil {
		shared, err = multiply(blinding([32]byte(k.PublicKey().Bytes())), shared)
	}
	if err != nil {
		return nil, fmt.Errorf("prove a key: %v", err)
	}
	return claimMAC(shared, nonce, host)
}

// CheckKey is the server's side of ProveKey. The error is ErrClaim for a proof that does not fit.
func CheckKey(server *ecdh.PrivateKey, name KeyName, nonce []byte, host string, proof []byte) error {
	n, err := ecdh.X25519().NewPublicKey(name[:])
	if err != nil {
		return fmt.Errorf("check a proof: %v: %w", err, ErrClaim)
	}
	shared, err := server.ECDH(n)
	if err != nil {
		return fmt.Errorf("check a proof: %v: %w", err, ErrClaim)
	}
	want, err := claimMAC(shared, nonce, host)
	if err != nil {
		return err
	}
	if !hmac.Equal(want, proof) {
		return ErrClaim
	}
	return nil
}

func claimMAC(shared, nonce []byte, host string) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, shared, nil, keyClaimLabel, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %v", err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte{byte(len(nonce))})
	mac.Write(nonce)
	mac.Write([]byte(strings.ToLower(host)))
	return mac.Sum(nil), nil
}

// multiply is X25519. A point of low order is an error.
func multiply(scalar, point []byte) ([]byte, error) {
	k, err := ecdh.X25519().NewPrivateKey(scalar)
	if err != nil {
		return nil, err
	}
	p, err := ecdh.X25519().NewPublicKey(point)
	if err != nil {
		return nil, err
	}
	return k.ECDH(p)
}
