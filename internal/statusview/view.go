// Package statusview draws what the processes of adit do, as "adit status" shows it.
package statusview

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"adit/internal/control"
	"adit/internal/typeset"
)

// nothingRuns is all there is to say where no process answers.
const nothingRuns = "No adit of yours is running."

// Lines writes what processes do for a person, in lines of at most width columns; 0 is no limit.
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
func Lines(all []control.Status, width int, now time.Time) []string {
	return (&view{width: width, detail: everything}).all(all, now)
}

// Fitted is Lines for a terminal: the most that fits its height, and what does not fit even so is counted.
func Fitted(all []control.Status, width, height int, now time.Time) []string {
	var lines []string
	for detail := everything; detail >= oneLine; detail-- {
		if lines = (&view{width: width, detail: detail}).all(all, now); len(lines) <= height {
			return lines
		}
	}
	shown := max(height-1, 0)
	return append(lines[:shown:shown], fmt.Sprintf("… %s more", typeset.Counted(uint64(len(lines)-shown), "line")))
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
		return strings.Split(typeset.WrapTo(nothingRuns, "", v.width), "\n")
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
		if p = typeset.Printable(p); p != "" {
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

func (v *view) wrapped(text, indent string) {
	v.lines = append(v.lines, strings.Split(typeset.WrapTo(text, indent, v.width), "\n")...)
}

func (v *view) process(s control.Status, now time.Time) {
	state := s.State
	if s.Doing != "" {
		state = s.Doing
	}
	v.line(0, fmt.Sprintf("%s %d", s.Command, s.PID), state, typeset.Since(s.Since, now))
	if len(s.Targets) > 0 {
		v.line(2, "offers "+strings.Join(s.Targets, ", "))
	}
	for _, l := range s.Listening {
		v.line(2, l.Addr+" → "+l.Target)
	}
	if s.Refused > 0 {
		v.line(2, fmt.Sprintf("%s refused", typeset.Counted(s.Refused, "stream")))
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
		v.line(2, who, path, s.State+" "+typeset.Age(now.Sub(s.Since)), typeset.Milliseconds(s.RTT), typeset.Counted(uint64(s.Streams), "stream"), "↑ "+typeset.Bits(s.SendRate)+" ↓ "+typeset.Bits(s.RecvRate))
		return
	}
	v.line(2, who, s.State, typeset.Since(s.Since, now))
	v.line(4, fmt.Sprintf("%s: %s ↔ %s", path, s.Path.Local, s.Path.Remote))
	if s.Path.To != "" && !strings.HasSuffix(s.Path.Remote, " "+s.Path.To) && s.Path.Kind == "direct" {
		v.line(4, "packets go to "+s.Path.To+" now")
	}
	v.line(4, fmt.Sprintf("round trip %s, least %s", typeset.Milliseconds(s.RTT), typeset.Milliseconds(s.MinRTT)),
		typeset.Counted(uint64(s.Streams), "stream"), "packets of "+typeset.Thousands(uint64(s.Packet))+" bytes")
	v.line(4, fmt.Sprintf("sending %s, %s so far", typeset.Bits(s.SendRate), typeset.Bytes(s.Sent)),
		fmt.Sprintf("receiving %s, %s so far", typeset.Bits(s.RecvRate), typeset.Bytes(s.Received)))
	share := 0.0
	if s.SentPkts > 0 {
		share = 100 * float64(s.Lost) / float64(s.SentPkts)
	}
	v.line(4, fmt.Sprintf("lost %s of %s (%s %%)", typeset.Thousands(s.Lost), typeset.Counted(s.SentPkts, "packet"), typeset.Digits(share)),
		fmt.Sprintf("sent again %s, %s of it in vain", typeset.Thousands(s.Resent), typeset.Thousands(s.Spurious)))
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

// Redrawn draws a terminal in place, without a flicker.
func Redrawn(lines []string) string {
	return "\x1b[H" + strings.Join(lines, "\x1b[K\r\n") + "\x1b[K\x1b[J"
}
