// Package identity holds what makes a machine known to its peers beyond one meeting: its own key
// pair, and the public keys of its peers by name.
//
//	$XDG_STATE_HOME/adit/key          the private key, mode 0600; never read if others can
//	$XDG_CONFIG_HOME/adit/peers.toml  the known peers, which people may edit too
//
// Both files are replaced, never written in place: what was there is whole until the new one is. A
// lock file beside each orders processes that change it at the same time.
//
// Errors: [ErrKeyText] (a public key that is not one), [ErrKeyFile] (a key file that is damaged),
// [ErrPermissions] (others could read or replace it), [ErrBusy] (another process holds the lock),
// [*KeyChangedError] (a known name comes with another key), [*FileError] (what is wrong in the peers
// file, and where). The system's errors are wrapped. Nothing here knows the network.
package identity

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"strings"
)

// KeySize is the size of both keys in bytes: X25519, RFC 7748 section 5.
const KeySize = 32

const (
	publicPrefix  = "adit1"
	privatePrefix = "adit-secret1"
	keyLetters    = 52 // 32 bytes in base32 without padding
)

// ErrKeyText is unwrapped by the errors of texts that are no public key.
var ErrKeyText = errors.New("not a public key")

// letters is RFC 4648 base32 in lower case: no letter is mistaken for a digit that is in it too.
var letters = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// A PublicKey is an X25519 public key: the static key of a Noise handshake. The zero key is none.
type PublicKey [KeySize]byte

// A PrivateKey is an X25519 private key. Its methods for printing show no part of it.
type PrivateKey [KeySize]byte

// generate returns a new private key from the system's randomness.
func generate() (PrivateKey, error) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("make a key: %w", err)
	}
	return PrivateKey(k.Bytes()), nil
}

// Public returns the public key of k.
func (k PrivateKey) Public() PublicKey {
	p, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		panic("identity: " + err.Error()) // 32 bytes are always a private key
	}
	return PublicKey(p.PublicKey().Bytes())
}

// Format prints, whatever the verb, that this is a private key and no more.
func (k PrivateKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "private key") }

// text returns the private key as its file holds it.
func (k PrivateKey) text() string { return privatePrefix + letters.EncodeToString(k[:]) }

// String returns the text form of k: "adit1" and 52 letters of base32 in lower case.
func (k PublicKey) String() string { return publicPrefix + letters.EncodeToString(k[:]) }

// Fingerprint returns the first 16 letters of the text form behind its prefix in groups of four, to
// be compared by people: 80 bits.
func (k PublicKey) Fingerprint() string {
	s := letters.EncodeToString(k[:10])
	return s[:4] + " " + s[4:8] + " " + s[8:12] + " " + s[12:]
}

// IsZero reports whether k is no key at all.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// decodeLetters returns the 32 bytes that the letters of a key stand for. Package base32 takes a byte of 0xff for
// padding where there is none, and returns fewer.
func decodeLetters(body string) (k [32]byte, ok bool) {
	b, err := letters.DecodeString(body)
	if err != nil || len(b) != len(k) {
		return k, false
	}
	return [32]byte(b), true
}

// ParsePublicKey reads the text form of a public key. There is one way to write each key, but for
// capitals, and white space around it. The error says what is wrong with the text and wraps ErrKeyText.
func ParsePublicKey(s string) (PublicKey, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	body, ok := strings.CutPrefix(s, publicPrefix)
	switch {
	case strings.HasPrefix(s, privatePrefix):
		return PublicKey{}, fmt.Errorf("%w: this is a private key, which nobody else should see", ErrKeyText)
	case !ok:
		return PublicKey{}, fmt.Errorf(`%w: it begins with %q, as "adit key" prints it`, ErrKeyText, publicPrefix)
	case len(body) != keyLetters:
		return PublicKey{}, fmt.Errorf("%w: it has %d letters behind %q and not %d", ErrKeyText, len(body), publicPrefix, keyLetters)
	}
	b, ok := decodeLetters(body)
	if !ok {
		return PublicKey{}, fmt.Errorf("%w: letters from a to z and digits from 2 to 7 follow %q", ErrKeyText, publicPrefix)
	}
	k := PublicKey(b)
	if k.String() != s { // the last letter has bits to spare
		return PublicKey{}, fmt.Errorf("%w: its last letter cannot be", ErrKeyText)
	}
	// A point of small order would make the shared secret anybody's: RFC 7748 section 6.1.
	p, err := ecdh.X25519().NewPublicKey(b[:])
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: %v", ErrKeyText, err)
	}
	probe, err := ecdh.X25519().NewPrivateKey([]byte("any private key serves this probe")[:KeySize])
	if err != nil {
		panic("identity: " + err.Error()) // 32 bytes are always a private key
	}
	if _, err := probe.ECDH(p); err != nil {
		return PublicKey{}, fmt.Errorf("%w: no private key belongs to it", ErrKeyText)
	}
	return k, nil
}

// MarshalText returns the text form of k.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the text form, as ParsePublicKey does.
func (k *PublicKey) UnmarshalText(b []byte) error {
	p, err := ParsePublicKey(string(b))
	if err == nil {
		*k = p
	}
	return err
}
