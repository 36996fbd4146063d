package relay

import (
	"crypto/hmac"
	"encoding/binary"
	"time"
)

// authenticate checks the long-term credential of a request (RFC 8489 section 9.2.4). It returns the
// username and the key that the response is signed with, or an error code.
//
// A username that has ended is good for what it already holds: an allocation in use does not end with
// the credential that it was made with.
func (t *TURN) authenticate(c *client, m *message, b []byte, now time.Time) (user []byte, key [keyBytes]byte, refusal int) {
	switch {
	case m.integrityAt == 0:
		return nil, key, codeUnauthorized
	case m.username == nil || m.realm == nil || m.nonce == nil || m.bad && len(b)-m.integrityAt < 4+20:
		return nil, key, codeBadRequest
	case !t.nonces.valid(m.nonce, c.addr, now):
		return nil, key, codeStaleNonce
	}
	ends, ok := expiry(m.username)
	if !ok {
		return nil, key, codeUnauthorized
	}
	user = m.username
	key = longTermKey(string(user), realm, Password(t.cfg.Secret, string(user)))
	mac := integrity(&key, b, m.integrityAt)
	given := b[m.integrityAt+4:]
	if binary.BigEndian.Uint16(b[m.integrityAt+2:]) != uint16(len(mac)) || !hmac.Equal(mac[:], given[:len(mac)]) {
		return nil, key, codeUnauthorized
	}
	if !now.Before(ends) {
		if a := t.find(c.key()); m.method == methodAllocate || a == nil || a.user != string(user) {
			return nil, key, codeUnauthorized
		}
	}
	return user, key, 0
}
