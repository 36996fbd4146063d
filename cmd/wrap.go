package cmd

import (
	"strings"
	"unicode/utf8"
)

// wrap breaks s at spaces into lines of at most so many columns; those after the first begin with
// indent. A word that is longer stays whole, so that an address can be copied, and spaces within a line
// stay as they are. Control sequences take no room.
func wrap(s, indent string, columns int) string {
	var out strings.Builder
	at := 0 // columns of the current line
	for len(s) > 0 {
		word := strings.TrimLeft(s, " ")
		spaces := len(s) - len(word)
		end := strings.IndexByte(word, ' ')
		if end < 0 {
			end = len(word)
		}
		word, s = word[:end], word[end:]
		n := columnsOf(word)
		if at > len(indent) && at+spaces+n > columns {
			out.WriteString("\n" + indent)
			at, spaces = len(indent), 0
		}
		out.WriteString(strings.Repeat(" ", spaces) + word)
		at += spaces + n
	}
	return out.String()
}

// columnsOf counts the characters of s that are shown.
func columnsOf(s string) int {
	n := utf8.RuneCountInString(s)
	for {
		_, after, found := strings.Cut(s, "\x1b[")
		if !found {
			return n
		}
		sequence, rest, _ := strings.Cut(after, "m") // of those that paint makes
		n -= len("\x1b[m") + len(sequence)
		s = rest
	}
}
