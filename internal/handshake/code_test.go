package handshake

import (
	"errors"
	"strings"
	"testing"

	"github.com/tyler-smith/go-bip39/wordlists"
)

func TestWordList(t *testing.T) {
	if got, want := len(wordlists.English), 1<<wordBits; got != want {
		t.Fatalf("list: got %d words, want %d", got, want)
	}
	if got, want := len(wordIndex()), 1<<wordBits; got != want {
		t.Fatalf("list: got %d different words, want %d", got, want)
	}
}

func TestNewCode(t *testing.T) {
	seen := make(map[string]int)
	for range 1000 {
		c := NewCode("7341")
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
		back, err := ParseCode(c.String())
		if err != nil {
			t.Fatal(err)
		}
		if back != c {
			t.Fatalf("got %v, want %v", back, c)
		}
		for _, w := range c.Words {
			seen[w]++
		}
	}
	// 3000 draws from 2048 words leave about 1575 different ones.
	if n := len(seen); n < 1400 || n > 1750 {
		t.Errorf("3000 draws gave %d different words", n)
	}
	if err := NewCode("73\x1b[2J41").Check(); !errors.Is(err, ErrCode) {
		t.Errorf("nameplate with an escape: got %v, want %v", err, ErrCode)
	}
}

func TestParseCode(t *testing.T) {
	want := listed("7341", "orbit", "copper", "ladder")
	for _, s := range []string{
		"7341-orbit-copper-ladder",
		"  7341-orbit-copper-ladder\r\n",
		"7341 orbit copper ladder",
		"7341-Orbit-COPPER-ladder",
		`"7341-orbit-copper-ladder"`,
		"'7341-orbit-copper-ladder'",
		"`7341-orbit-copper-ladder`",
		"“7341-orbit-copper-ladder”",
		"«7341-orbit-copper-ladder»",
		"„7341 – orbit — copper ‑ ladder“",
		"7341\u2212orbit--copper\u00a0-\tladder.",
		"\ufeff7341-orbit\u200b-copper-ladder",
		"<7341-orbit-copper-ladder>",
		"(7341, orbit, copper, ladder)",
		"7341_orbit_copper_ladder",
	} {
		got, err := ParseCode(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
		} else if got != want {
			t.Errorf("%q: got %v, want %v", s, got, want)
		}
	}
	if got, want := want.String(), "7341-orbit-copper-ladder"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestParseCodeRejects(t *testing.T) {
	for s, says := range map[string]string{
		"":                                              "empty",
		" - ":                                           "empty",
		"orbit-copper-ladder":                           `begins with "orbit"`,
		"734-orbit-copper-ladder":                       "3 digits",
		"73410000000-orbit-copper-ladder":               "11 digits",
		"73a1-orbit-copper-ladder":                      `"73a1"`,
		"٧٣٤١-orbit-copper-ladder":                      "want a number",
		"7341":                                          "0 words",
		"7341-orbit-copper":                             "2 words",
		"7341-orbit-copper-ladder-zoo":                  "4 words",
		"7341-orbti-copper-ladder":                      `"orbti" is not a code word, did you mean "orbit"?`,
		"7341-orbit-cpper-ladder":                       `did you mean "copper"?`,
		"7341-orbit-copper-lader":                       `did you mean "ladder"?`,
		"7341-orbit-copper-laddder":                     `did you mean "ladder"?`,
		"7341-orbit-copper-ladders":                     `did you mean "ladder"?`,
		"7341-orbit-copper-xqzzqxqzq":                   `"xqzzqxqzq" is not a code word`,
		"7341-orbit-copper-\x1b31m":                     `is not a code word`,
		"7341-orbit-copper-läddär":                      `"läddär" is not a code word, did you mean "ladder"?`,
		"7341-orbit-copper-" + strings.Repeat("z", 60):  "is not a code word",
		"7341-orbit-copper-" + strings.Repeat("z", 300): "too many",
		"7341-orbit-copper-\xff":                        "not valid text",
	} {
		_, err := ParseCode(s)
		if !errors.Is(err, ErrCode) {
			t.Errorf("%q: got %v, want %v", s, err, ErrCode)
		} else if !strings.Contains(err.Error(), says) {
			t.Errorf("%q: got %q, want %q in it", s, err, says)
		} else if strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("%q: control characters in %q", s, err)
		}
	}
}

func TestSlips(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "acb", 1},
		{"abc", "abd", 1}, {"abc", "ab", 1}, {"abc", "abcd", 1}, {"abcd", "badc", 2}, {"kitten", "sitting", 3},
	} {
		if got := slips(tt.a, tt.b); got != tt.want {
			t.Errorf("slips(%q, %q): got %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func FuzzParseCode(f *testing.F) {
	f.Add("7341-orbit-copper-ladder")
	f.Add("“7341 Orbit – copper ladder”")
	f.Add("7341-orbti-copper-ladder")
	f.Add("\xff-\u200b")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCode(s)
		if err != nil {
			if !errors.Is(err, ErrCode) {
				t.Errorf("%q: unknown error %v", s, err)
			}
			return
		}
		if err := c.Check(); err != nil {
			t.Errorf("%q: parsed, but %v", s, err)
		}
		back, err := ParseCode(c.String())
		if err != nil || back != c {
			t.Errorf("%q: got %v, %v, want %v", s, back, err, c)
		}
	})
}
