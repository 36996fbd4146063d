package relay

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/netip"
	"strconv"
	"time"

	"adit/internal/stunmsg"
)

const (
	maxUsername = 128 // bytes; ours have 35
	nonceLife   = time.Hour
	nonceRaw    = 12 // bytes: 4 of the time, 8 of a MAC
	nonceChars  = nonceRaw * 4 / 3
	keyBytes    = md5.Size
)

// Password returns the password of a time-limited username, "SECONDS:ID" with the Unix time at which it
// ends (draft-uberti-behave-turn-rest-00 section 2.2; coturn's use-auth-secret).
func Password(secret []byte, username string) string {
	m := hmac.New(sha1.New, secret)
	m.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// expiry returns when a username ends; false if it has another form.
func expiry(username []byte) (time.Time, bool) {
	seconds, _, _ := bytes.Cut(username, []byte(":"))
	if len(username) > maxUsername || len(seconds) == 0 || len(seconds) > 12 {
		return time.Time{}, false
	}
	for _, c := range seconds {
		if c < '0' || c > '9' {
			return time.Time{}, false
		}
	}
	n, err := strconv.ParseInt(string(seconds), 10, 64)
	return time.Unix(n, 0), err == nil
}

// longTermKey is the key of MESSAGE-INTEGRITY (RFC 8489 section 9.2.2).
func longTermKey(username, realm, password string) (key [keyBytes]byte) {
	return md5.Sum([]byte(username + ":" + realm + ":" + password))
}

// integrity returns the MAC of a message whose MESSAGE-INTEGRITY attribute begins at byte at: over all
// before it, with a length as if it were the last attribute (RFC 8489 section 14.5).
func integrity(key *[keyBytes]byte, b []byte, at int) (mac [sha1.Size]byte) {
	h := hmac.New(sha1.New, key[:])
	var size [2]byte
	binary.BigEndian.PutUint16(size[:], uint16(at-stunmsg.HeaderBytes+4+sha1.Size))
	h.Write(b[:2])
	h.Write(size[:])
	h.Write(b[4:at])
	h.Sum(mac[:0])
	return mac
}

// nonces makes and knows nonces without keeping any: one is the time it was made and a MAC over that and
// the client's address. A client that shows one can receive at its address.
type nonces struct{ key [32]byte }

func (n *nonces) mac(seconds uint32, client netip.AddrPort) [8]byte {
	var in [4 + 16 + 2]byte
	binary.BigEndian.PutUint32(in[:], seconds)
	ip := client.Addr().As16()
	copy(in[4:], ip[:])
	binary.BigEndian.PutUint16(in[20:], client.Port())
	h := hmac.New(sha256.New, n.key[:])
	h.Write(in[:])
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	return [8]byte(sum[:8])
}

// make returns a new nonce for a client.
func (n *nonces) make(client netip.AddrPort, now time.Time) (out [nonceChars]byte) {
	var raw [nonceRaw]byte
	seconds := uint32(now.Unix())
	binary.BigEndian.PutUint32(raw[:], seconds)
	mac := n.mac(seconds, client)
	copy(raw[4:], mac[:])
	base64.RawURLEncoding.Encode(out[:], raw[:])
	return out
}

// valid says whether a nonce was made for a client, less than an hour ago.
func (n *nonces) valid(nonce []byte, client netip.AddrPort, now time.Time) bool {
	var raw [nonceRaw]byte
	if len(nonce) != nonceChars {
		return false
	}
	if _, err := base64.RawURLEncoding.Decode(raw[:], nonce); err != nil {
		return false
	}
	seconds := binary.BigEndian.Uint32(raw[:])
	mac := n.mac(seconds, client)
	age := now.Sub(time.Unix(int64(seconds), 0))
	return hmac.Equal(mac[:], raw[4:]) && age < nonceLife && age > -time.Minute
}
