package typeset

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Printable leaves out of s what a terminal could obey.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}

// Since writes when something began, and how long ago that is.
func Since(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	layout := "15:04:05"
	if now.Sub(t) > 20*time.Hour {
		layout = "2006-01-02 15:04"
	}
	return fmt.Sprintf("since %s (%s)", t.Local().Format(layout), Age(now.Sub(t)))
}

// Age writes a time in its two largest units.
func Age(d time.Duration) string {
	s := int(max(d, 0).Seconds())
	switch {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%d h %d min", s/3600, s/60%60)
	}
	return fmt.Sprintf("%d d %d h", s/86400, s/3600%24)
}

func Counted(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return Thousands(n) + " " + what + "s"
}

// Thousands writes a number with commas.
func Thousands(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Bits writes a rate.
func Bits(perSecond float64) string {
	switch {
	case perSecond >= 1e9:
		return Digits(perSecond/1e9) + " Gbit/s"
	case perSecond >= 1e6:
		return Digits(perSecond/1e6) + " Mbit/s"
	case perSecond >= 1e3:
		return Digits(perSecond/1e3) + " kbit/s"
	}
	return fmt.Sprintf("%.0f bit/s", perSecond)
}

// Bytes writes a size.
func Bytes(n uint64) string {
	x := float64(n)
	switch {
	case n >= 1e9:
		return Digits(x/1e9) + " GB"
	case n >= 1e6:
		return Digits(x/1e6) + " MB"
	case n >= 1e3:
		return Digits(x/1e3) + " kB"
	}
	return fmt.Sprintf("%d bytes", n)
}

// Milliseconds prints a round trip as precisely as it is worth.
func Milliseconds(ms float64) string {
	switch {
	case ms >= 10:
		return fmt.Sprintf("%.0f ms", ms)
	case ms >= 1:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.2f ms", ms)
}

// Digits prints a figure with three digits, or more in front of the point.
func Digits(x float64) string {
	decimals := 0
	switch {
	case x == 0:
	case x < 1:
		decimals = 3
	case x < 9.995:
		decimals = 2
	case x < 99.95:
		decimals = 1
	}
	return strconv.FormatFloat(x, 'f', decimals, 64)
}
