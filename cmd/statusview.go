package cmd

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"adit/internal/control"

	"golang.org/x/term"
)

// nothingRuns is all there is to say where no process answers.
const nothingRuns = "No adit of yours is running."

func terminalSize(f *os.File) (width, height int) {
	if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
		return w, h
	}
	return 80, 24
}

func terminalWidth(f *os.File) int {
	w, _ := terminalSize(f)
	return w
}

// statusLines writes what processes do for a person, in lines of at most width columns; 0 is no limit.
//
//	connect 4711 · up · since 14:03:11 (2 h 5 min)
//	  127.0.0.1:2222 → localhost:22
//	  home (by key) · up · since 14:03:12 (2 h 5 min)
//	    direct: host 192.0.2.1:4242 ↔ srflx 198.51.100.7:5353
//	    round trip 12 ms, least 11 ms · 1 stream · packets of 1,444 bytes
//	    sending 3.2 Mbit/s, 1.2 GB so far · receiving 0.1 Mbit/s, 3.4 MB
//	    lost 12 of 3,456 packets (0.35 %) · sent again 15, 2 in vain
//	    candidates here: host …, srflx …
//	    candidates there: …
func statusLines(all []control.Status, width int, now time.Time) []string {
	return (&view{width: width, detail: everything}).all(all, now)
}

// fitted is statusLines for a terminal: the most that fits its height, and what does not fit even so is counted.
func fitted(all []control.Status, width, height int, now time.Time) []string {
	var lines []string
	for detail := everything; detail >= oneLine; detail-- {
		if lines = (&view{width: width, detail: detail}).all(all, now); len(lines) <= height {
			return lines
		}
	}
	shown := max(height-1, 0)
	return append(lines[:shown:shown], fmt.Sprintf("… %s more", counted(uint64(len(lines)-shown), "line")))
}

// How much a view tells of each session.
const (
	oneLine = iota
	noCandidates
	everything
)

// A view is lines in the making.
type view struct {
	width  int
	detail int
	lines  []string
}

func (v *view) all(all []control.Status, now time.Time) []string {
	if len(all) == 0 {
		return strings.Split(wrapTo(nothingRuns, "", v.width), "\n")
	}
	for i, s := range all {
		if i > 0 && v.detail > oneLine {
			v.lines = append(v.lines, "")
		}
		v.process(s, now)
	}
	return v.lines
}

// line adds the parts that are not empty, with dots in between, broken where they do not fit. Parts are what
// another process says, of which root trusts none: nothing in them gets at the terminal.
func (v *view) line(indent int, parts ...string) {
	var some []string
	for _, p := range parts {
		if p = printable(p); p != "" {
			some = append(some, p)
		}
	}
	if len(some) == 0 {
		return
	}
	// A part stays whole if it fits a line.
	space := strings.Repeat(" ", indent)
	text := space
	for i, p := range some {
		if i < len(some)-1 {
			p += " ·"
		}
		switch {
		case i == 0:
			text += p
		case v.width > 0 && utf8.RuneCountInString(text+" "+p) > v.width:
			v.wrapped(text, space+"  ")
			text = space + "  " + p
		default:
			text += " " + p
		}
	}
	v.wrapped(text, space+"  ")
}

// printable leaves out of s what a terminal could obey.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}

func (v *view) wrapped(text, indent string) {
	v.lines = append(v.lines, strings.Split(wrapTo(text, indent, v.width), "\n")...)
}

func wrapTo(s, indent string, width int) string {
	if width <= 0 {
		return s
	}
	return wrap(s, indent, width)
}

func (v *view) process(s control.Status, now time.Time) {
	state := s.State
	if s.Doing != "" {
		state = s.Doing
	}
	v.line(0, fmt.Sprintf("%s %d", s.Command, s.PID), state, since(s.Since, now))
	if len(s.Targets) > 0 {
		v.line(2, "offers "+list(s.Targets))
	}
	for _, l := range s.Listening {
		v.line(2, l.Addr+" → "+l.Target)
	}
	if s.Refused > 0 {
		v.line(2, fmt.Sprintf("%s refused", counted(s.Refused, "stream")))
	}
	for _, p := range s.Sessions {
		v.session(p, now)
	}
}

func (v *view) session(s control.Session, now time.Time) {
	who := "peer met by " + s.Met
	if s.Peer != "" {
		who = fmt.Sprintf("%s (by %s)", s.Peer, s.Met)
	}
	path := s.Path.Kind
	if s.Path.Transport != "" {
		path += " over " + s.Path.Transport
	}
	if v.detail == oneLine {
		if s.Peer != "" {
			who = s.Peer
		}
		v.line(2, who, path, s.State+" "+age(now.Sub(s.Since)), milliseconds(s.RTT), counted(uint64(s.Streams), "stream"), "↑ "+bits(s.SendRate)+" ↓ "+bits(s.RecvRate))
		return
	}
	v.line(2, who, s.State, since(s.Since, now))
	v.line(4, fmt.Sprintf("%s: %s ↔ %s", path, s.Path.Local, s.Path.Remote))
	if s.Path.To != "" && !strings.HasSuffix(s.Path.Remote, " "+s.Path.To) && s.Path.Kind == "direct" {
		v.line(4, "packets go to "+s.Path.To+" now")
	}
	v.line(4, fmt.Sprintf("round trip %s, least %s", milliseconds(s.RTT), milliseconds(s.MinRTT)),
		counted(uint64(s.Streams), "stream"), "packets of "+thousands(uint64(s.Packet))+" bytes")
	v.line(4, fmt.Sprintf("sending %s, %s so far", bits(s.SendRate), bytesOf(s.Sent)),
		fmt.Sprintf("receiving %s, %s so far", bits(s.RecvRate), bytesOf(s.Received)))
	share := 0.0
	if s.SentPkts > 0 {
		share = 100 * float64(s.Lost) / float64(s.SentPkts)
	}
	v.line(4, fmt.Sprintf("lost %s of %s (%s %%)", thousands(s.Lost), counted(s.SentPkts, "packet"), digits(share)),
		fmt.Sprintf("sent again %s, %s of it in vain", thousands(s.Resent), thousands(s.Spurious)))
	if v.detail < everything {
		return
	}
	if len(s.Local) > 0 {
		v.line(4, "candidates here: "+strings.Join(s.Local, ", "))
	}
	if len(s.Remote) > 0 {
		v.line(4, "candidates there: "+strings.Join(s.Remote, ", "))
	}
}

// since writes when something began, and how long ago that is.
func since(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	layout := "15:04:05"
	if now.Sub(t) > 20*time.Hour {
		layout = "2006-01-02 15:04"
	}
	return fmt.Sprintf("since %s (%s)", t.Local().Format(layout), age(now.Sub(t)))
}

// age writes a time in its two largest units.
func age(d time.Duration) string {
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

func counted(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return thousands(n) + " " + what + "s"
}

// thousands writes a number with commas.
func thousands(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// bits writes a rate.
func bits(perSecond float64) string {
	switch {
	case perSecond >= 1e9:
		return digits(perSecond/1e9) + " Gbit/s"
	case perSecond >= 1e6:
		return digits(perSecond/1e6) + " Mbit/s"
	case perSecond >= 1e3:
		return digits(perSecond/1e3) + " kbit/s"
	}
	return fmt.Sprintf("%.0f bit/s", perSecond)
}

// bytesOf writes a size.
func bytesOf(n uint64) string {
	x := float64(n)
	switch {
	case n >= 1e9:
		return digits(x/1e9) + " GB"
	case n >= 1e6:
		return digits(x/1e6) + " MB"
	case n >= 1e3:
		return digits(x/1e3) + " kB"
	}
	return fmt.Sprintf("%d bytes", n)
}
