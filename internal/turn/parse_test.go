package turn

import (
	"bufio"
	"bytes"
	"errors"
	"strings"
	"testing"

	"adit/internal/stunmsg"
)

func TestParseURL(t *testing.T) {
	for in, want := range map[string]string{
		"turn:relay.example":                    "udp relay.example:3478",
		"turn:relay.example:53?transport=udp":   "udp relay.example:53",
		"TURN:relay.example?transport=TCP":      "tcp relay.example:3478",
		"turns:relay.example":                   "tls relay.example:5349",
		"turns:relay.example:443?transport=tcp": "tls relay.example:443",
		"turn:[2001:db8::1]:3478":               "udp [2001:db8::1]:3478",
		"turn:[2001:db8::1]":                    "udp [2001:db8::1]:3478",
		"turn:192.0.2.1":                        "udp 192.0.2.1:3478",
	} {
		got, err := parseURL(in)
		if err != nil || got.String()+" "+got.addr() != want {
			t.Errorf("%s: %v %v, %v; want %s", in, got, got.addr(), err, want)
		}
	}
	for _, in := range []string{
		"", "turn", "turn:", "stun:x", "http://x", "turn://x", "turn:x:0", "turn:x:65536", "turn:x:", "turn:x:y", "turn:::1",
		"turns:x?transport=udp", "turn:x?transport=sctp", "turn:x?", "turn:[::1", "turn:[1.2.3.4]", "turn:[::1]x", "turn:a b",
		"turn:user@x", "turn:" + strings.Repeat("x", 254), "turn:[fe80::1%eth0]x",
	} {
		if _, err := parseURL(in); !errors.Is(err, ErrURL) {
			t.Errorf("%q: %v, want ErrURL", in, err)
		}
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte{0x40, 0, 0, 1, 'x'})
	f.Add(append([]byte{0, 0x17, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...))
	f.Add(append([]byte{1, 0x13, 0, 8, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 20)...))
	f.Fuzz(func(_ *testing.T, b []byte) {
		a := &Allocation{c: &client{}, channels: map[uint16]*peer{stunmsg.MinChannel: {}}}
		a.receive(b)
		r := bufio.NewReader(bytes.NewReader(b))
		buf := make([]byte, maxMessage)
		for {
			n, err := stunmsg.ReadFrame(r, buf)
			if err != nil {
				break
			}
			a.receive(buf[:n])
		}
	})
}

func FuzzURL(f *testing.F) {
	f.Add("turn:[2001:db8::1]:3478?transport=udp")
	f.Add("turns:relay.example:443")
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := parseURL(s); err == nil && (u.host == "" || u.port == "") {
			t.Errorf("%q: %+v", s, u)
		}
	})
}
