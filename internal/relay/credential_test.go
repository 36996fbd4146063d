package relay

import (
	"encoding/hex"
	"testing"
)

// The message of RFC 5769 section 2.4, which is signed with long-term credentials.
func TestIntegrity(t *testing.T) {
	t.Parallel()
	packet := []byte("\x00\x01\x00\x60\x21\x12\xa4\x42\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e" +
		"\x00\x06\x00\x12マトリックス\x00\x00" +
		"\x00\x15\x00\x1cf//499k954d6OL34oL9FSTvy64sA" +
		"\x00\x14\x00\x0bexample.org\x00" +
		"\x00\x08\x00\x14\xf6\x70\x24\x65\x6d\xd6\x4a\x3e\x02\xb8\xe0\x71\x2e\x85\xc9\xa2\x8c\xa8\x96\x66")
	var m message
	if !parse(packet, &m) || m.bad || string(m.username) != "マトリックス" || string(m.realm) != "example.org" {
		t.Fatalf("got %+v", m)
	}
	key := longTermKey(string(m.username), string(m.realm), "TheMatrIX")
	got := integrity(&key, packet, m.integrityAt)
	if got, want := hex.EncodeToString(got[:]), hex.EncodeToString(packet[len(packet)-20:]); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
