package handshake

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/tyler-smith/go-bip39/wordlists"
)

// Bounds of a code's text.
const (
	minNameplate = 4
	maxNameplate = 10
	maxCodeText  = 256 // bytes ParseCode looks at; a code of four of the longest parts has 37
)

// wordBits is what one word is worth: the list has 2048.
const wordBits = 11

// A Code is what one person tells another so that their machines meet once: the nameplate is the
// rendezvous server's name for the room and no secret; the words are secret, and the nameplate is never
// derived from them.
type Code struct {
	Nameplate string
	Words     [3]string
}

// NewCode makes a code for a room with three fresh random words, 33 bits. The nameplate comes from a
// server: Check says whether it is one before anybody prints it.
func NewCode(nameplate string) Code {
	var b [3 * 2]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	c := Code{Nameplate: nameplate}
	for i := range c.Words {
		c.Words[i] = wordlists.English[binary.BigEndian.Uint16(b[2*i:])%(1<<wordBits)]
	}
	return c
}

// String returns the code as people write it: 7341-orbit-copper-ladder.
func (c Code) String() string {
	return c.Nameplate + "-" + strings.Join(c.Words[:], "-")
}

// Check returns an error that is ErrCode unless the nameplate is 4 to 10 digits and each word is in
// the list, in lower case.
func (c Code) Check() error {
	if err := checkNameplate(c.Nameplate); err != nil {
		return err
	}
	for _, w := range c.Words {
		if err := checkWord(w); err != nil {
			return err
		}
	}
	return nil
}

// ParseCode reads a code as people write and paste it: in any case, with spaces, quote marks or any kind
// of dash around and between its four parts. The error is ErrCode and says what is wrong with which
// part; for a word that is not in the list it names the nearest that is.
func ParseCode(s string) (Code, error) {
	if len(s) > maxCodeText {
		return Code{}, fmt.Errorf("%w: %d characters are too many for a code like 7341-orbit-copper-ladder", ErrCode, len(s))
	}
	if !utf8.ValidString(s) {
		return Code{}, fmt.Errorf("%w: not valid text", ErrCode)
	}
	parts := strings.FieldsFunc(strings.ToLower(s), isCodeSeparator)
	if len(parts) == 0 {
		return Code{}, fmt.Errorf("%w: empty, want a number and three words, like 7341-orbit-copper-ladder", ErrCode)
	}
	if err := checkNameplate(parts[0]); err != nil {
		return Code{}, err
	}
	c := Code{Nameplate: parts[0]}
	if n := len(parts) - 1; n != len(c.Words) {
		return Code{}, fmt.Errorf("%w: %d words after the number, want %d", ErrCode, n, len(c.Words))
	}
	for i, w := range parts[1:] {
		if err := checkWord(w); err != nil {
			return Code{}, err
		}
		c.Words[i] = w
	}
	return c, nil
}

// isCodeSeparator reports what may stand between the parts of a code: chat programs turn hyphens into
// dashes, quote marks into curly ones, and add invisible characters.
func isCodeSeparator(r rune) bool {
	switch r {
	case '"', '\'', '<', '>', '`', '´', '_', '.', ',', ';', '\u2212': // U+2212 is the minus sign
		return true
	}
	return unicode.IsSpace(r) || unicode.In(r, unicode.Pd, unicode.Pi, unicode.Pf, unicode.Ps, unicode.Pe, unicode.Cf)
}

func checkNameplate(s string) error {
	digits := func(r rune) bool { return r >= '0' && r <= '9' }
	if strings.TrimFunc(s, digits) != "" {
		return fmt.Errorf("%w: it begins with %q, want a number", ErrCode, s)
	}
	if len(s) < minNameplate || len(s) > maxNameplate {
		return fmt.Errorf("%w: its number %q has %d digits, want %d to %d", ErrCode, s, len(s), minNameplate, maxNameplate)
	}
	return nil
}

// wordIndex is the set of listed words.
var wordIndex = sync.OnceValue(func() map[string]struct{} {
	m := make(map[string]struct{}, len(wordlists.English))
	for _, w := range wordlists.English {
		m[w] = struct{}{}
	}
	return m
})

func checkWord(w string) error {
	if _, ok := wordIndex()[w]; ok {
		return nil
	}
	near := nearestWord(w)
	if near == "" {
		return fmt.Errorf("%w: %q is not a code word", ErrCode, w)
	}
	return fmt.Errorf("%w: %q is not a code word, did you mean %q?", ErrCode, w, near)
}

// nearestWord returns the listed word that takes the fewest slips to become w, or "" when w is
// nothing like any. Among equals the one that begins like w wins: people mistype the ends of words.
func nearestWord(w string) string {
	const longest = 16 // the longest listed word has 8 letters
	if len(w) > longest {
		return ""
	}
	best, bestDistance, bestPrefix := "", max(2, (len(w)+1)/2)+1, 0
	for _, c := range wordlists.English {
		d := slips(w, c)
		if d > bestDistance {
			continue
		}
		p := 0
		for p < min(len(w), len(c)) && w[p] == c[p] {
			p++
		}
		if d < bestDistance || p > bestPrefix {
			best, bestDistance, bestPrefix = c, d, p
		}
	}
	return best
}

// slips counts the letters left out, added, replaced, or swapped with the next between a and b
// (optimal string alignment distance).
func slips(a, b string) int {
	before, last, this := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		this[0] = i
		for j := 1; j <= len(b); j++ {
			d := last[j-1]
			if a[i-1] != b[j-1] {
				d = 1 + min(last[j-1], last[j], this[j-1])
				if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
					d = min(d, 1+before[j-2])
				}
			}
			this[j] = d
		}
		before, last, this = last, this, before
	}
	return last[len(b)]
}

// CompleteCode returns what a code may be that begins so, up to the end of the word that is being typed: nothing for what
// is no beginning of a code, nor before its number is there.
func CompleteCode(begins string) []string {
	i := strings.LastIndexByte(begins, '-')
	if i < 0 {
		return nil
	}
	parts := strings.Split(begins[:i], "-")
	if checkNameplate(parts[0]) != nil || len(parts) > len(Code{}.Words) {
		return nil
	}
	var list []string
	for _, w := range wordlists.English {
		if strings.HasPrefix(w, begins[i+1:]) {
			list = append(list, begins[:i+1]+w)
		}
	}
	return list
}
