package cmd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"adit/internal/event"
	"adit/tunnel"

	"github.com/mattn/go-isatty"
	"golang.org/x/term"
)

// A ui is the only thing that prints. It turns events into a status line on a terminal, plain lines
// elsewhere, or JSON lines. Standard output gets requested values only (a token, a code, JSON); when
// a command's data flow there, it gets nothing from here. Any goroutine may use it.
type ui struct {
	out, err io.Writer
	json     bool
	quiet    bool
	verbose  bool
	outTTY   bool // standard output is a terminal
	redraw   bool // standard error is a terminal that obeys control sequences
	colour   bool
	width    func() int

	// What the commands fill in before there are events.
	dataOut  bool                     // standard output carries data
	onCode   func(code string) string // the command to run on the other machine
	onToken  string                   // what to do with a token
	managed  bool                     // a manager of services takes down what is written, with its time
	log      *slog.Logger             // what happens goes there, not to a person; may be nil
	observer func(event.Event)        // sees every event first; may be nil
	run      *running                 // of a command that others may ask about; may be nil
	flows    *tunnel.FlowBudget       // of all listeners of the process; may be nil
	reloads  reloads

	mu       sync.Mutex
	status   string    // what the status line says
	shown    bool      // whether it is on the screen
	vivid    bool      // whether it is there to be looked at
	started  time.Time // when the path came up
	path     string
	streams  int
	later    *time.Timer // will show streams, if not nil
	refusals refusals
}

const (
	upSince     = "up since "
	statusEvery = 100 * time.Millisecond
)

func newUI(out, errOut *os.File) *ui {
	u := &ui{out: out, err: errOut, width: func() int { return 80 }}
	u.outTTY = isTerminal(out)
	// The old console of Windows shows control sequences as they are.
	obeys := os.Getenv("TERM") != "dumb" && (runtime.GOOS != "windows" || os.Getenv("WT_SESSION") != "")
	if isTerminal(errOut) && obeys {
		u.redraw = true
		u.colour = os.Getenv("NO_COLOR") == ""
		u.width = func() int {
			if w, _, err := term.GetSize(int(errOut.Fd())); err == nil && w > 0 {
				return w
			}
			return 80
		}
	}
	return u
}

func isTerminal(f *os.File) bool {
	return isatty.IsTerminal(f.Fd()) || isatty.IsCygwinTerminal(f.Fd())
}

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
	if e.Peer != "" || e.Name == event.Reachable || e.Name == event.Unreachable || e.Name == event.Unanswered || e.Name == event.Calling || e.Name == event.Saved {
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
	case event.Up:
		u.path = fmt.Sprintf("%s, %s", e.Path, milliseconds(e.RTT))
		u.started = e.Time
		u.statusLocked(u.upLocked())
		u.lineLocked(u.paint(green, "connected"), fmt.Sprintf(" (%s): %s ↔ %s", u.path, e.Local, e.Remote))
	case event.Relayed:
		u.lineLocked(e.Message, "; "+e.Hint)
	case event.Words:
		u.lineLocked("words: "+u.paint(bold, strings.Join(e.Words, " ")), " – the same on both screens? If not, somebody sits in between: stop.")
	case event.Listening:
		u.listeningLocked(e)
	case event.Stream:
		u.streamLocked(e)
	case event.Interrupted:
		u.stateLocked("interrupted: nothing comes from the peer; waiting for it")
	case event.Reloaded:
		if e.State == "ok" {
			u.lineLocked("the files have been read again", "")
			break
		}
		u.lineLocked("reading the files again: "+e.Message, " ("+e.Hint+")")
	case event.Closed:
		u.statusLocked("")
		u.lineLocked("closed", because(e.Message))
	}
}

// peerLocked shows what happens to one of several peers, or at a rendezvous: there is no one status.
func (u *ui) peerLocked(e event.Event) {
	switch e.Name {
	case event.Reachable:
		u.lineLocked("reachable by key", " at "+e.Addr)
	case event.Unreachable:
		u.lineLocked("trying again: ", e.Message)
	case event.Calling:
		u.stateLocked("calling the peer")
	case event.Unanswered:
		u.lineLocked(e.Message, "")
	case event.Stream:
		switch {
		case e.State == "refused":
			u.refusalLineLocked(e.Peer, e.Peer+": ", e.State+" "+e.Target+because(e.Message))
		case u.verbose:
			u.lineLocked(e.Peer+": ", e.State+" "+e.Target+because(e.Message))
		}
	case event.Listening:
		u.listeningLocked(e)
	case event.Saved:
		u.lineLocked("saved as ", fmt.Sprintf("%s: %s", e.Peer, e.Key))
	case event.Up:
		u.lineLocked(u.paint(green, e.Peer+" connected"), fmt.Sprintf(" (%s, %s): %s ↔ %s", e.Path, milliseconds(e.RTT), e.Local, e.Remote))
	case event.Interrupted:
		u.lineLocked(e.Peer+": interrupted", "")
	case event.Closed:
		u.lineLocked(e.Peer+": closed", because(e.Message))
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
	u.status = "" // addresses have been found
	switch {
	case u.dataOut || u.outTTY:
		u.setApartLocked(u.onToken, token)
	default: // the paste channel has written the token alone on standard output
		u.lineLocked(strings.TrimSuffix(u.onToken, ":"), " (it is on standard output)")
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
	u.stateLocked("waiting for the other side (the code works once, for ten minutes; Ctrl-C to stop)")
}

func (u *ui) streamLocked(e event.Event) {
	switch e.State {
	case "open":
		u.streams++
	case "closed", "reset":
		u.streams = max(u.streams-1, 0)
	}
	switch {
	case e.State == "refused":
		u.refusalLineLocked("", "refused ", e.Target+because(e.Message))
	case u.verbose:
		u.lineLocked("stream ", fmt.Sprintf("%s: %s%s", e.State, e.Target, because(e.Message)))
	}
	if u.redraw && u.path != "" && u.later == nil {
		u.later = time.AfterFunc(statusEvery, u.statusLater) // thousands a second may come
	}
}

// statusLater shows what has changed since it was asked for.
func (u *ui) statusLater() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.later = nil
	if strings.HasPrefix(u.status, upSince) { // an interruption is more important
		u.statusLocked(u.upLocked())
	}
}

func because(message string) string {
	if message == "" {
		return ""
	}
	return ": " + message
}

func (u *ui) upLocked() string {
	s := upSince + fmt.Sprintf("%s · %s", u.started.Format("15:04:05"), u.path)
	switch u.streams {
	case 0:
	case 1:
		s += " · 1 stream"
	default:
		s += fmt.Sprintf(" · %d streams", u.streams)
	}
	return s
}

// jsonLocked writes e as one line. The error event is shaped by fail, because its code is a number.
func (u *ui) jsonLocked(e any) {
	b, err := json.Marshal(e)
	if err != nil {
		panic("cmd: event: " + err.Error()) // events hold nothing that JSON cannot
	}
	w := u.out
	if u.dataOut {
		w = u.err
	}
	w.Write(append(b, '\n')) // a reader that went away is no reason to stop
}

// fail prints what ended the command.
func (u *ui) fail(f *failure) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.json {
		u.jsonLocked(struct {
			Name    string    `json:"event"`
			Time    time.Time `json:"time"`
			Code    int       `json:"code"`
			Message string    `json:"message"`
			Hint    string    `json:"hint,omitempty"`
		}{event.Error, time.Now(), f.code, f.message, f.hint})
		return
	}
	if u.log != nil {
		u.logFailure(f)
		return
	}
	u.hideLocked()
	const indent = "      "
	fmt.Fprintf(u.err, "%s\n", u.wrapped(u.paint(red, "adit:")+" "+f.message, indent))
	if f.hint != "" {
		fmt.Fprintf(u.err, "%s\n", u.wrapped(indent+f.hint, indent))
	}
}

// say prints one line for a person; with --json or -q nobody wants it.
func (u *ui) say(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.json:
	case u.log != nil:
		u.logSay(format, args...)
	default:
		u.lineLocked(fmt.Sprintf(format, args...), "")
	}
}

// prompt asks a person for something, in a line of its own: the answer may be long.
func (u *ui) prompt(question string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.json {
		return
	}
	u.hideLocked()
	u.status = ""
	fmt.Fprintf(u.err, "%s:\n", u.wrapped(u.paint(bold, strings.TrimRight(question, ": \n")), ""))
}

// answer prints a value that was asked for on standard output.
func (u *ui) answer(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hideLocked()
	fmt.Fprintf(u.out, format+"\n", args...)
}

// done takes the status line off the screen.
func (u *ui) done() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hideLocked()
	u.status = ""
}

// stateLocked shows what goes on now: in the status line, or as a line where there is none.
func (u *ui) stateLocked(s string) {
	if u.redraw {
		u.statusLocked(s + " …")
		return
	}
	u.lineLocked(s, "")
}

func (u *ui) lineLocked(head, tail string) {
	if u.quiet {
		return
	}
	u.hideLocked()
	fmt.Fprintf(u.err, "%s\n", u.wrapped(head+tail, ""))
	u.showLocked()
}

// answerWrapped is wrapped for a line of words on standard output.
func (u *ui) answerWrapped(s, indent string) string {
	if !u.outTTY {
		return s
	}
	return wrap(s, indent, u.width())
}

// wrapped breaks a line at spaces where the terminal would break it within words.
func (u *ui) wrapped(s, indent string) string {
	if !u.redraw {
		return s
	}
	return wrap(s, indent, u.width())
}

func (u *ui) statusLocked(s string) {
	if !u.redraw || u.quiet {
		return
	}
	u.hideLocked()
	u.status = s
	u.showLocked()
}

func (u *ui) hideLocked() {
	if u.shown {
		fmt.Fprint(u.err, "\r\x1b[K")
		u.shown = false
	}
}

func (u *ui) showLocked() {
	if u.status == "" || u.quiet {
		return
	}
	how := faint
	if u.vivid {
		how = green
	}
	fmt.Fprint(u.err, u.paint(how, fit(u.status, u.width()-1)))
	u.shown = true
}

// fit cuts s to n columns, so that the status line never wraps: a wrapped one cannot be redrawn.
func fit(s string, n int) string {
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

type style string

const (
	bold  style = "\x1b[1m"
	faint style = "\x1b[2m"
	red   style = "\x1b[31m"
	green style = "\x1b[32m"
)

func (u *ui) paint(c style, s string) string {
	if !u.colour || s == "" {
		return s
	}
	return string(c) + s + "\x1b[0m"
}

// milliseconds prints a round trip as precisely as it is worth.
func milliseconds(ms float64) string {
	switch {
	case ms >= 10:
		return fmt.Sprintf("%.0f ms", ms)
	case ms >= 1:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.2f ms", ms)
}

// logger returns the log for the layers below: everything with -v, nothing otherwise.
func (u *ui) logger() *slog.Logger {
	if u.log != nil {
		return u.log
	}
	if !u.verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(logWriter{u}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// logWriter puts log lines above the status line.
type logWriter struct{ u *ui }

func (w logWriter) Write(b []byte) (int, error) {
	w.u.mu.Lock()
	defer w.u.mu.Unlock()
	w.u.hideLocked()
	n, err := w.u.err.Write(bytes.TrimLeft(b, "\n"))
	w.u.showLocked()
	return n, err
}
