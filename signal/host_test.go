package signal

import "testing"

// TestOwnHost: hosts that mean something on the server alone become the one that the client was given.
func TestOwnHost(t *testing.T) {
	for _, c := range []struct{ url, in, want string }{
		{"https://meet.example.org/x", "turn:127.0.0.1:3478?transport=udp", "turn:meet.example.org:3478?transport=udp"},
		{"https://meet.example.org", "turns:backend", "turns:meet.example.org"},
		{"https://meet.example.org", "turn:localhost:1", "turn:meet.example.org:1"},
		{"https://meet.example.org", "turn:[::1]:3478", "turn:meet.example.org:3478"},
		{"http://[2001:db8::1]:8080", "turn:127.0.0.1", "turn:[2001:db8::1]"},
		{"https://meet.example.org", "turn:relay.example.net:3478", "turn:relay.example.net:3478"},
		{"https://meet.example.org", "turn:192.168.1.5:3478", "turn:192.168.1.5:3478"},
		{"http://127.0.0.1:8080", "turn:127.0.0.1:3478", "turn:127.0.0.1:3478"},
		{"http://nas:8080", "turn:nas:3478", "turn:nas:3478"},
	} {
		if got := (&Client{URL: c.url}).atOwnHost(c.in); got != c.want {
			t.Errorf("%s at %s: got %s, want %s", c.in, c.url, got, c.want)
		}
	}
}
