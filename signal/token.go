package signal

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxToken is the length of the longest token in characters. Terminals cut lines at 1024.
	MaxToken = 900

	tokenVersion     = "1"
	tokenPrefixChars = len("adit1o.")
	tokenHeaderBytes = 3
	tokenHeaderChars = 4 // tokenHeaderBytes in base64
	tokenSumBytes    = 4
	tokenMinBytes    = tokenHeaderBytes + 4 + tokenSumBytes
	tokenMaxBytes    = (MaxToken - tokenPrefixChars) * 3 / 4
)

var (
	tokenText = base64.RawURLEncoding.Strict()
	castagn   = crc32.MakeTable(crc32.Castagnoli)

	// A keyboard may capitalise the first letter; the rest it leaves alone.
	tokenPrefix = regexp.MustCompile(`[Aa]dit([0-9]{1,4})([a-z])\.`)

	escapes = regexp.MustCompile("\x1b\\[[0-9;:?<=>]*[ -/]*[@-~]")
)

// A TokenError says why a text is no usable token and what to do about it: one sentence each, for
// a person, without a final period.
type TokenError struct {
	Problem, Hint string

	unfinished bool // the text could go on in the next line
	absent     bool // nothing in the text looks like a token
	ended      bool // the input ended without one
	have, want int  // characters of the cut token, where known
}

// Error returns the problem.
func (e *TokenError) Error() string { return e.Problem }

// Token returns m as one line of text, for offers, answers and halves only.
//
//	adit 1 o .  base64url of:
//	                 0        2        3                 7                len-4
//	                +--------+--------+-----------------+----------------+---------+
//	                | len    | check  | expires, unix s | body ...       | CRC32C  |
//	                +--------+--------+-----------------+----------------+---------+
//
// The letter is o for an offer, a for an answer and h for a half. len counts all bytes drawn here; check is the low
// byte of the CRC32C of the prefix and len, so that a token whose end is missing is told from one with
// a wrong character. The CRC32C at the end covers the prefix and everything before it. Integers are
// big-endian. A token longer than MaxToken is refused with ErrTooLong.
func (m Message) Token() (string, error) {
	var prefix string
	switch m.Kind {
	case KindOffer:
		prefix = "adit" + tokenVersion + "o."
	case KindAnswer:
		prefix = "adit" + tokenVersion + "a."
	case KindHalf:
		prefix = "adit" + tokenVersion + "h."
	default:
		return "", fmt.Errorf("write a message of %v as a token: only offers, answers and halves have one", m.Kind)
	}
	n := tokenMinBytes + len(m.Body)
	if n > tokenMaxBytes {
		return "", fmt.Errorf("write an %v of %d bytes as a token: %w", m.Kind, len(m.Body), ErrTooLong)
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, n), uint16(n))
	b = append(b, byte(tokenSum(prefix, b)))
	b = binary.BigEndian.AppendUint32(b, expiry(m.Expires))
	b = append(b, m.Body...)
	b = binary.BigEndian.AppendUint32(b, tokenSum(prefix, b))
	return prefix + tokenText.EncodeToString(b), nil
}

func tokenSum(prefix string, b []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(prefix), castagn), castagn, b)
}

// scanTokens returns every whole token in s, which may be a line, several, or a piece of chat, and, if
// there is none, what is wrong with the last. It skips what stands before and after a token, and inside it
// line breaks, spaces, quote marks, backticks, asterisks, invisible characters, and the name or the time
// that a chat puts in front of each line. Whether a token has expired is the caller's to judge.
func scanTokens(s string) ([]Message, *TokenError) {
	text := clean(s)
	var found []Message
	var last *TokenError
	at := tokenPrefix.FindAllStringSubmatchIndex(text, -1)
	for i, ix := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0] // a fresh prefix ends a cut token
		}
		version, letter, rest := text[ix[2]:ix[3]], text[ix[4]:ix[5]], text[ix[1]:end]
		m, err := parseOne(version, letter, rest)
		switch {
		case err == nil:
			found = append(found, m)
		case err.unfinished && i+1 < len(at):
			err.unfinished = false
			last = err
		default:
			last = err
		}
	}
	switch {
	case len(found) > 0:
		return found, nil
	case last == nil && isCode.MatchString(s):
		return nil, &TokenError{absent: true,
			Problem: "this is a code, not a line to paste",
			Hint:    "end this, and give it as an argument: adit connect CODE --signal URL"}
	case last == nil:
		return nil, &TokenError{absent: true,
			Problem: "there is no line of adit's in this text",
			Hint:    "paste the whole line that starts with adit1"}
	case last.want > 0:
		if at := terminalLimit(s); at > 0 {
			last.Problem = fmt.Sprintf("the terminal cut the line at %d characters", at)
			last.Hint = "paste the line alone or in two lines, or use a file or a pipe"
		}
	}
	return nil, last
}

// parseOne reads one token, of which rest is what follows the prefix.
func parseOne(version, letter, rest string) (Message, *TokenError) {
	if version != tokenVersion {
		return Message{}, &TokenError{
			Problem: fmt.Sprintf("this line is of version %s, and this adit reads version %s", version, tokenVersion),
			Hint:    "use the same version of adit on both sides"}
	}
	kind := KindOffer
	switch letter {
	case "o":
	case "a":
		kind = KindAnswer
	case "h":
		kind = KindHalf
	default:
		return Message{}, &TokenError{
			Problem: fmt.Sprintf("this line is of a kind %q that this adit does not know", letter),
			Hint:    "use the same version of adit on both sides"}
	}
	prefix := "adit" + version + letter + "."
	// What looks like a name in front of a line may be the token itself: the sum decides.
	m, err := decode(kind, prefix, dropNames(rest))
	if err != nil {
		if again, err := decode(kind, prefix, rest); err == nil {
			return again, nil
		}
	}
	return m, err
}

// decode collects the characters of a token from text and reads them.
func decode(kind Kind, prefix, text string) (Message, *TokenError) {
	corrupt := &TokenError{
		Problem: "this line is damaged: a character is wrong, missing or too many",
		Hint:    "copy the whole line again; a chat may have changed it, so try it as code or as a file"}
	var chars []byte
	want := tokenHeaderChars
	for i, r := range text {
		if len(chars) == want {
			break
		}
		switch {
		case inAlphabet(r):
			if chars = append(chars, byte(r)); len(chars) == tokenHeaderChars {
				n, ok := tokenLength(prefix, chars)
				if !ok {
					return Message{}, corrupt
				}
				want = tokenText.EncodedLen(n)
			}
		case isNoise(r):
		default:
			next, _ := utf8.DecodeRuneInString(text[i+utf8.RuneLen(r):])
			if inAlphabet(next) && r != '…' && r != '.' {
				return Message{}, corrupt
			}
			e := cut(len(chars), want)
			e.unfinished = false
			return Message{}, e
		}
	}
	if len(chars) < want {
		return Message{}, cut(len(chars), want)
	}
	b, err := tokenText.DecodeString(string(chars))
	if err != nil {
		return Message{}, corrupt
	}
	body, sum := b[:len(b)-tokenSumBytes], b[len(b)-tokenSumBytes:]
	if tokenSum(prefix, body) != binary.BigEndian.Uint32(sum) {
		return Message{}, corrupt
	}
	return Message{
		Kind:    kind,
		Expires: expires(binary.BigEndian.Uint32(body[tokenHeaderBytes:])),
		Body:    append([]byte(nil), body[tokenHeaderBytes+4:]...),
	}, nil
}

// tokenLength reads the length in bytes from the first four characters.
func tokenLength(prefix string, chars []byte) (int, bool) {
	var b [tokenHeaderBytes]byte
	if _, err := tokenText.Decode(b[:], chars); err != nil {
		return 0, false
	}
	n := int(binary.BigEndian.Uint16(b[:]))
	return n, b[2] == byte(tokenSum(prefix, b[:2])) && n >= tokenMinBytes && n <= tokenMaxBytes
}

func cut(have, want int) *TokenError {
	e := &TokenError{unfinished: true, have: have + tokenPrefixChars, want: want + tokenPrefixChars,
		Hint: "copy the whole line again, from adit1 to its last character"}
	if want == tokenHeaderChars {
		e.Problem = "this line is cut: hardly more than its beginning is here"
	} else {
		e.Problem = fmt.Sprintf("this line is cut: %d of its %d characters are here", e.have, e.want)
	}
	return e
}

// clean removes what nobody sees, and undoes what typographers do to hyphens.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\u2010' || r == '\u2011' || r == '\u2013':
			return '-'
		case r == '\n' || r == '\t':
			return r
		case r == '\r':
			return '\n'
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r): // Cf: zero width, soft hyphen, direction
			return -1
		}
		return r
	}, strings.ReplaceAll(escapes.ReplaceAllString(strings.ToValidUTF8(s, "\uFFFD"), ""), "\u2014", "--"))
}

// dropNames removes from the second line on what a chat puts in front: "[12:03] alice: ", "<bob> ".
// None of the marks that end it is in a token.
func dropNames(s string) string {
	const nameChars = 60
	lines := strings.Split(s, "\n")
	for i, line := range lines[1:] {
		last := -1
		for j := 0; j+1 < len(line) && j < nameChars; j++ {
			if strings.IndexByte(":>]|", line[j]) >= 0 && line[j+1] == ' ' {
				last = j
			}
		}
		lines[i+1] = line[last+1:]
	}
	return strings.Join(lines, "\n")
}

func inAlphabet(r rune) bool {
	return r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

func isNoise(r rune) bool {
	return unicode.IsSpace(r) || strings.ContainsRune("\"'`*>|\\“”‘’„«»‹›", r)
}

// isCode is the form of a code: a number and three words.
var isCode = regexp.MustCompile(`^\s*[0-9]{4,10}(-[a-z]+){3}\s*$`)

// terminalLimit returns the length at which a terminal in canonical mode cut a line of s, or 0. What
// the kernel keeps of a line includes the newline on some systems and not on others.
func terminalLimit(s string) int {
	for line := range strings.SplitSeq(s, "\n") {
		for _, limit := range []int{1024, 4096} {
			if len(line) == limit || len(line) == limit-1 {
				return limit
			}
		}
	}
	return 0
}
