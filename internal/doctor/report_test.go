package doctor

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

// TestClean: what servers are called, and say, cannot command a terminal.
func TestClean(t *testing.T) {
	t.Parallel()
	const evil = "a\x1b]0;title\x07\x1b[2Jb\u009b31m\u202ec\xff\nd"
	r := &Report{
		STUN:       []Server{{Name: evil, Error: evil}},
		Carrier:    evil,
		Ports:      PortMapping{Error: evil},
		Rendezvous: &Rendezvous{URL: evil, Proxy: evil, Error: evil},
		Relays:     []Relay{{URL: evil, Error: evil}},
		System:     System{Error: evil},
	}
	r.clean()
	r.judge()
	for _, l := range r.Lines() {
		for _, c := range l.Topic + l.Found + l.Advice {
			if !unicode.IsPrint(c) {
				t.Errorf("%s: %q in %q", l.Topic, c, l.Found)
			}
		}
	}
	const want = "a]0;title[2Jb31mcd"
	if got := r.STUN[0].Error; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestRunCleans: a report has been cleaned.
func TestRunCleans(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := Run(ctx, Config{STUN: []string{"\x1b[2J:x"}, NoPorts: true, Loopback: true})
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "u001b") {
		t.Errorf("got %s", b)
	}
}
