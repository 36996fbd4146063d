package cmd

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"adit/internal/event"
	"adit/internal/typeset"
)

// event is the sink of every layer's events.
func (u *ui) event(e event.Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if u.observer != nil {
		u.observer(e)
	}
	u.run.event(e)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.noteLocked(e)
	if u.json {
		u.jsonLocked(e)
		return
	}
	if u.log != nil {
		if e.Name == event.Code && !u.outTTY && !u.dataOut {
			fmt.Fprintln(u.out, e.Code) // who asked for the value gets it
		}
		u.logEvent(e)
		return
	}
	if e.Peer != "" {
		u.peerLocked(e)
		return
	}
	switch e.Name {
	case event.Token:
		if e.State == "again" {
			u.onToken = "Both sides may have moved. The session goes on when this line is pasted at the other side, and the other side's here:"
		}
		u.tokenLocked(e.Token)
	case event.Code:
		if e.State == "again" {
			u.lineLocked(e.Message, "")
		}
		u.codeLocked(e.Code)
	case event.Gathering:
		u.stateLocked("finding this machine's addresses")
	case event.Checking:
		u.stateLocked("trying paths to the peer")
	case event.Calling:
		u.stateLocked("calling the peer")
	case event.Absent:
		u.lineLocked(e.Message, "; waiting")
		if u.redraw {
			u.stateLocked("waiting for the peer")
		}
	case event.Unanswered:
		u.lineLocked(e.Message, "")
	case event.Unseen:
		u.lineLocked(u.paint(bold, e.Message), "; "+e.Hint)
	case event.Unreachable:
		tail := "; trying again"
		if e.Hint != "" {
			tail += " (" + e.Hint + ")"
		}
		u.lineLocked(e.Message, tail)
	case event.Reachable:
		if e.State == "again" {
			u.lineLocked(e.Addr, " answers again")
			break
		}
		u.lineLocked("reachable by key", " at "+e.Addr)
	case event.Up:
		u.lineLocked(u.paint(green, "connected"), fmt.Sprintf(" (%s, %s)%s", e.Path, typeset.Milliseconds(e.RTT), ends(e)))
		u.meterLocked()
	case event.Relayed:
		u.lineLocked(e.Message, hinted(e.Hint))
	case event.Words:
		u.lineLocked("words: "+u.paint(bold, strings.Join(e.Words, " ")), " – the same on both screens? If not, somebody sits in between: stop.")
	case event.Listening:
		u.listeningLocked(e)
	case event.Stream:
		u.streamLocked("", e)
	case event.Interrupted:
		u.stateLocked("interrupted: nothing comes from the peer; waiting for it")
	case event.Reloaded:
		if e.State == "ok" {
			u.lineLocked("the files have been read again", "")
			break
		}
		u.lineLocked("reading the files again: "+e.Message, " ("+e.Hint+")")
	case event.Closed:
		u.moving = false
		u.statusLocked()
		switch {
		case u.stays != "" && e.Message != "":
			u.lineLocked("closed: ", e.Message)
		case u.stays != "" && e.Side == event.Peer:
			u.lineLocked(u.stays+" ended the session", "; waiting for it to come back")
		case e.Message != "":
			u.lineLocked("closed: ", e.Message)
		case e.Side == event.Peer:
			u.lineLocked("closed: ", "the other side ended the session")
		}
	}
}

// noteLocked keeps what a command behind another's terminal waits for.
func (u *ui) noteLocked(e event.Event) {
	switch e.Name {
	case event.Gathering:
		u.doing = "still finding this machine's addresses"
	case event.Absent:
		u.doing = e.Message + "; waiting"
	case event.Unreachable:
		u.doing = e.Message + "; trying again"
	case event.Calling:
		u.doing = "still calling the peer"
	case event.Unanswered:
		u.doing = e.Message
	case event.Checking:
		u.doing = "still trying paths to the peer"
	case event.Up, event.Token:
		u.arrivedLocked()
	}
}

// hinted joins a hint to a sentence.
func hinted(hint string) string {
	if hint == "" {
		return ""
	}
	return "; " + hint
}

// ends names the two ends of a path.
func ends(e event.Event) string {
	if e.Local == "" || e.Remote == "" {
		return ""
	}
	return ": " + e.Local + " ↔ " + e.Remote
}

// peerLocked shows what happens to one of several peers: there is no one status.
func (u *ui) peerLocked(e event.Event) {
	switch e.Name {
	case event.Unanswered, event.Absent:
		u.lineLocked(e.Message, "")
	case event.Stream:
		u.streamLocked(e.Peer+": ", e)
	case event.Listening:
		u.listeningLocked(e)
	case event.Saved:
		u.lineLocked("saved as ", fmt.Sprintf("%s: %s", e.Peer, e.Key))
	case event.Up:
		u.lineLocked(u.paint(green, e.Peer+" connected"), fmt.Sprintf(" (%s, %s)%s", e.Path, typeset.Milliseconds(e.RTT), ends(e)))
	case event.Interrupted:
		u.lineLocked(e.Peer+": interrupted", "")
	case event.Closed:
		switch {
		case e.Message != "":
			u.lineLocked(e.Peer+": closed", because(e.Message))
		case e.Side == event.Peer:
			u.lineLocked(e.Peer+": ", "ended the session")
		default:
			u.lineLocked(e.Peer+": closed", "")
		}
	}
}

func (u *ui) listeningLocked(e event.Event) {
	head, at := "", e.Addr
	if e.Peer != "" {
		head = e.Peer + ": "
	}
	if e.Side == event.Peer {
		at += " over there"
	}
	u.lineLocked(head+u.paint(bold, at), " → "+e.Target)
}

func (u *ui) tokenLocked(token string) {
	u.hideLocked()
	u.status = nil // addresses have been found
	switch {
	case u.dataOut || u.outTTY:
		u.setApartLocked(u.onToken, token)
	default: // the paste channel has written the token alone on standard output
		u.lineLocked(strings.TrimSuffix(u.onToken, ":"), " (it is on standard output)")
	}
	if u.afterOwn != "" {
		u.stateLocked(u.afterOwn)
	}
}

// setApartLocked prints a value between empty lines, so that it can be marked with the mouse. It
// prints it unbroken: a terminal that wraps it lets it be copied in one piece.
func (u *ui) setApartLocked(title, value string) {
	u.hideLocked()
	fmt.Fprintf(u.err, "%s\n\n%s\n\n", u.wrapped(title, ""), value)
	u.showLocked()
}

func (u *ui) codeLocked(code string) {
	if !u.outTTY && !u.dataOut {
		fmt.Fprintln(u.out, code)
	}
	command := code
	if u.onCode != nil {
		command = u.onCode(code)
	}
	u.hideLocked()
	const there = "On the other machine:"
	apart := " "
	if u.redraw && len(there)+1+utf8.RuneCountInString(command) > u.width() {
		apart = "\n" // where it does not fit either it is the terminal that breaks it: it is to be copied
	}
	fmt.Fprintf(u.err, "%s%s%s\n", there, apart, u.paint(bold, command))
	u.showLocked()
	u.lineLocked("The code works once, for ten minutes.", "")
	u.stateLocked("waiting for the other side")
}

// streamLocked tells of a stream: of one that was refused, and with -v of each. head names its peer where there are
// several.
func (u *ui) streamLocked(head string, e event.Event) {
	switch {
	case e.State == "refused":
		u.refusalLineLocked(e.Peer, head+"refused", refusalWords(e))
	case u.verbose:
		u.lineLocked(head+"stream ", fmt.Sprintf("%s: %s%s", e.State, e.Target, because(e.Message)))
	}
}

// refusalWords says what was refused and why, the target once.
func refusalWords(e event.Event) string {
	switch {
	case e.Target == "" || strings.Contains(e.Message, e.Target):
		return because(e.Message)
	default:
		return " " + e.Target + because(e.Message)
	}
}

func because(message string) string {
	if message == "" {
		return ""
	}
	return ": " + message
}
