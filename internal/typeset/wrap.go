// Package typeset sets text for terminals: lines that are broken at spaces or cut, sizes, rates and times in a form that
// a person reads. It prints nothing.
package typeset

import (
	"strings"
	"unicode/utf8"
)

// Wrap breaks s at spaces into lines of at most so many columns; those after the first begin with
// indent. A word that is longer stays whole, so that an address can be copied, and spaces within a line
// stay as they are. Control sequences take no room.
func Wrap(s, indent string, columns int) string {
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
		n := Columns(word)
		if at > len(indent) && at+spaces+n > columns {
			out.WriteString("\n" + indent)
			at, spaces = len(indent), 0
		}
		out.WriteString(strings.Repeat(" ", spaces) + word)
		at += spaces + n
	}
	return out.String()
}

// Columns counts the characters of s that are shown.
func Columns(s string) int {
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

// WrapTo is Wrap where there is a width; 0 is no limit.
func WrapTo(s, indent string, width int) string {
	if width <= 0 {
		return s
	}
	return Wrap(s, indent, width)
}

// FitParts joins as many parts as n columns hold, and at least the beginning of the first.
func FitParts(parts []string, n int) string {
	s := parts[0]
	for _, p := range parts[1:] {
		if utf8.RuneCountInString(s)+3+utf8.RuneCountInString(p) > n {
			break
		}
		s += " · " + p
	}
	return Fit(s, n)
}

// Fit cuts s to n columns, so that the status line never wraps: a wrapped one cannot be redrawn.
func Fit(s string, n int) string {
	r := []rune(s)
	switch {
	case len(r) <= n:
		return s
	case n <= 0:
		return ""
	case n == 1:
		return "…"
	}
	return string(r[:n-1]) + "…"
}
