package signal

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

var inTime = time.Unix(2_000_000_000, 0)

func sampleMessage(k Kind) Message {
	body := bytes.Repeat([]byte{0x5a, 0xff, 0x00, byte(k), 0xb3}, 30)
	body = append(body, 0, 0, 0xfb, 0xef, 0xbe, 0xfb, 0xef, 0xbe, 0xfb, 0xef, 0xbe) // hyphens in base64
	return Message{Kind: k, Expires: inTime, Body: body}
}

// parseToken returns the first whole token in s.
func parseToken(s string) (Message, error) {
	ms, err := scanTokens(s)
	if len(ms) > 0 {
		return ms[0], nil
	}
	return Message{}, err
}

func token(t testing.TB, m Message) string {
	t.Helper()
	s, err := m.Token()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// problem returns the TokenError that reading s gives.
func problem(t *testing.T, s string) *TokenError {
	t.Helper()
	m, err := parseToken(s)
	var e *TokenError
	if !errors.As(err, &e) {
		t.Fatalf("got %v, %v, want a *TokenError", m, err)
	}
	checkSentences(t, e)
	return e
}

func checkSentences(t *testing.T, e *TokenError) {
	t.Helper()
	for _, s := range []string{e.Problem, e.Hint} {
		if s == "" || strings.HasSuffix(s, ".") || strings.Contains(s, "\n") {
			t.Errorf("%q is no sentence for a person", s)
		}
	}
	if e.Error() != e.Problem {
		t.Errorf("Error() is %q, want %q", e.Error(), e.Problem)
	}
}

func TestToken(t *testing.T) {
	for _, m := range []Message{
		sampleMessage(KindOffer),
		sampleMessage(KindAnswer),
		sampleMessage(KindHalf),
		{Kind: KindOffer},
		{Kind: KindAnswer, Body: make([]byte, tokenMaxBytes-tokenMinBytes)},
	} {
		s := token(t, m)
		if len(s) > MaxToken || strings.ContainsAny(s, " \n\r") {
			t.Errorf("token %q of %d characters", s, len(s))
		}
		got, err := parseToken(s)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, m) {
			t.Errorf("got %+v, want %+v", got, m)
		}
	}
}

// The line that people carry must stay short (issue 2).
func TestTokenLength(t *testing.T) {
	const noise = 105 // what the IX handshake adds to its payload
	body := append(make([]byte, noise), sampleDescription().Append(nil)...)
	s := token(t, Message{Kind: KindOffer, Expires: inTime, Body: body})
	t.Logf("%d characters", len(s))
	if len(s) >= 350 {
		t.Errorf("token of %d characters, want fewer than 350", len(s))
	}
}

func TestTokenRefusesToWrite(t *testing.T) {
	_, err := Message{Kind: KindOffer, Body: make([]byte, tokenMaxBytes-tokenMinBytes+1)}.Token()
	if !errors.Is(err, ErrTooLong) {
		t.Errorf("got %v, want ErrTooLong", err)
	}
	for _, k := range []Kind{0, KindPAKE, KindCandidates, KindAbort, 99} {
		if s, err := (Message{Kind: k}).Token(); err == nil {
			t.Errorf("%v: got %q, want an error", k, s)
		}
	}
}

// wrap breaks s into lines of n characters, each but the first after prefix.
func wrap(s, prefix string, n int) string {
	var b strings.Builder
	for len(s) > n {
		b.WriteString(s[:n] + "\n" + prefix)
		s = s[n:]
	}
	return b.String() + s
}

func TestTokenThroughChat(t *testing.T) {
	want := sampleMessage(KindAnswer)
	s := token(t, want)
	other := token(t, sampleMessage(KindOffer))
	if !strings.Contains(s, "----") {
		t.Fatalf("no hyphens in %s: what chats do to them is not tested", s)
	}
	for _, c := range []struct{ name, text string }{
		{"bare", s},
		{"newline", s + "\n"},
		{"windows newline", s + "\r\n"},
		{"spaces", "  \t" + s + "   "},
		{"double quotes", `"` + s + `"`},
		{"typographic quotes", "“" + s + "”"},
		{"single quotes", "'" + s + "'"},
		{"backticks", "```\n" + s + "\n```"},
		{"bold", "**" + s + "**"},
		{"quoted", "> " + s},
		{"angle brackets", "<" + s + ">"},
		{"parentheses", "(" + s + ")"},
		{"time and name", "[12:03] alice: " + s},
		{"irc", "12:03 <alice> " + s},
		{"words around", "here you are: " + s + " thanks, see you"},
		{"words behind in a line of their own", s + "\nsent from my phone"},
		{"full stop", s + "."},
		{"capital", "A" + s[1:]},
		{"wrapped at 80", wrap(s, "", 80)},
		{"wrapped in mail", "> " + wrap(s, "> ", 70)},
		{"wrapped twice quoted", ">> " + wrap(s, ">> ", 70)},
		{"wrapped by windows", strings.ReplaceAll(wrap(s, "", 80), "\n", "\r\n")},
		{"wrapped with backslashes", strings.ReplaceAll(wrap(s, "", 80), "\n", "\\\n")},
		{"wrapped with indent", wrap(s, "      ", 60)},
		{"several messages", "[12:03] alice: " + wrap(s, "[12:04] alice: ", 100)},
		{"several messages of a long name", "12:03 Alice B. Smith: " + wrap(s, "12:03 Alice B. Smith: ", 100)},
		{"irc lines", "12:03 <alice> " + wrap(s, "12:03 <alice> ", 100)},
		{"spaces inside", wrap(s, " ", 40)},
		{"zero width", wrap(s, "\u200b", 50)},
		{"byte order mark", "\ufeff" + s},
		{"soft hyphens", strings.Replace(s, s[50:60], s[50:55]+"\u00ad"+s[55:60], 1)},
		{"bracketed paste", "\x1b[200~" + s + "\x1b[201~"},
		{"colour", "\x1b[1;32m" + s + "\x1b[0m"},
		{"non-breaking hyphen", strings.ReplaceAll(s, "-", "\u2011")},
		{"en dash", strings.ReplaceAll(s, "-", "\u2013")},
		{"em dash", strings.ReplaceAll(s, "--", "\u2014")},
		{"a cut one before", other[:100] + "\n" + s},
		{"a cut one before in the line", other[:100] + " " + s},
		{"one of another version before", "adit2o.AAAA " + s},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseToken(c.text)
			if err != nil {
				t.Fatalf("%v, reading %q", err, c.text)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestTokenAbsent(t *testing.T) {
	for _, s := range []string{"", "\n", "hello", "adit1", "adit connect", "7341-orbit-copper-ladder", "adito.AAAA"} {
		if e := problem(t, s); !e.absent {
			t.Errorf("%q: %v, want that there is none", s, e)
		}
	}
}

func TestTokenCut(t *testing.T) {
	s := token(t, sampleMessage(KindOffer))
	for n := tokenPrefixChars; n < len(s); n++ {
		if e := problem(t, s[:n]); !e.unfinished || !strings.Contains(e.Problem, "cut") {
			t.Fatalf("%d of %d characters: %v, want cut", n, len(s), e)
		}
	}
	for _, end := range []string{"…", "...", "… (show more)", ") and so on"} {
		if e := problem(t, s[:100]+end); e.unfinished || !strings.Contains(e.Problem, "cut") {
			t.Errorf("ends with %q: %v, want cut", end, e)
		}
	}
	for _, limit := range []int{1023, 1024, 4095, 4096} {
		line := strings.Repeat("x ", 4096)[:limit-100] + s[:100]
		e := problem(t, line)
		if want := map[bool]string{true: "1024", false: "4096"}[limit <= 1024]; !strings.Contains(e.Problem, want) {
			t.Errorf("line of %d characters: %v, want the limit of %s named", limit, e, want)
		}
	}
}

// Every changed character behind the prefix is noticed, and none makes the token look cut.
func TestTokenCorrupt(t *testing.T) {
	s := token(t, sampleMessage(KindOffer))
	for i := tokenPrefixChars; i < len(s); i++ {
		for _, by := range []byte{'A', 'z', '_', '!', '/'} {
			if s[i] == by {
				continue
			}
			e := problem(t, s[:i]+string(by)+s[i+1:])
			last := i == len(s)-1 && !inAlphabet(rune(by)) // reads as the end of the token
			if !last && !strings.Contains(e.Problem, "damaged") {
				t.Fatalf("character %d to %q: %v, want damaged", i, by, e)
			}
		}
	}
	// The letter is covered by the sum: an offer does not become an answer.
	if e := problem(t, strings.Replace(s, "adit1o", "adit1a", 1)); !strings.Contains(e.Problem, "damaged") {
		t.Errorf("offer made an answer: %v, want damaged", e)
	}
	if e := problem(t, s[:60]+s[61:]); !e.unfinished {
		t.Errorf("a character missing: %v, want cut", e)
	}
	if e := problem(t, s[:60]+"A"+s[60:]); !strings.Contains(e.Problem, "damaged") {
		t.Errorf("a character too many: %v, want damaged", e)
	}
}

func TestTokenVersion(t *testing.T) {
	s := token(t, sampleMessage(KindOffer))
	if e := problem(t, "adit2o"+s[6:]); !strings.Contains(e.Problem, "version 2") {
		t.Errorf("%v, want version 2 named", e)
	}
	if e := problem(t, "adit1x"+s[6:]); !strings.Contains(e.Problem, "kind") {
		t.Errorf("%v, want the kind named", e)
	}
}

func FuzzToken(f *testing.F) {
	s := token(f, sampleMessage(KindOffer))
	for _, seed := range []string{"", s, "> " + wrap(s, "> ", 70), s[:40], "adit2o.x", "adit1a.AAAA…", "[1:2] a: " + s + " b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseToken(s)
		if err != nil {
			var e *TokenError
			if !errors.As(err, &e) || e.Problem == "" || e.Hint == "" {
				t.Errorf("%#v, want a *TokenError", err)
			}
			return
		}
		again, err := parseToken(token(t, m))
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%+v came back as %+v, %v", m, again, err)
		}
	})
}
