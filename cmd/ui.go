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
	"sync/atomic"
	"time"

	"adit/internal/event"
	"adit/internal/fail"
	"adit/internal/typeset"
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
	reloads  reloads
	flows    *tunnel.FlowBudget // of datagrams, of all sessions

	behind   atomic.Bool // the terminal is another program's: see standBehind
	stays    string      // the peer that is dialled again when it has ended the session; "" ends then
	verify   string      // what --verify says
	afterOwn string      // what is waited for when this side's line has been shown

	mu       sync.Mutex
	status   []string                 // the parts of the status line, the most important first
	shown    bool                     // whether it is on the screen
	vivid    bool                     // whether it is there to be looked at
	moving   bool                     // whether it is meter that says what it shows
	meter    func(time.Time) []string // what goes on while the path is up; nil if there is nothing to tell
	later    *time.Timer              // will show meter again, if not nil
	patience *time.Timer              // says once for what a program behind another's terminal waits; nil if not
	doing    string                   // what it would say
	refusals refusals
}

// patienceFor is how long a command behind another program's terminal waits before it says for what.
const patienceFor = 1500 * time.Millisecond

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

// print makes u print as options say.
func (u *ui) print(o *outputOptions) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.json, u.quiet, u.verbose = o.json, o.quiet, o.verbose
}

// fail prints what ended the command.
func (u *ui) fail(f *fail.Failure) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, one := range append([]*fail.Failure{f}, f.More...) {
		u.failLocked(one)
	}
}

func (u *ui) failLocked(f *fail.Failure) {
	if u.json {
		u.jsonLocked(struct {
			Name    string    `json:"event"`
			Time    time.Time `json:"time"`
			Code    int       `json:"code"`
			Message string    `json:"message"`
			Hint    string    `json:"hint,omitempty"`
		}{event.Error, time.Now(), f.Code, f.Message, f.Hint})
		return
	}
	if u.log != nil {
		u.logFailure(f)
		return
	}
	if u.behind.Load() && f.Code == fail.Interrupted && !u.verbose {
		return // by the program whose terminal it is
	}
	u.hideLocked()
	const indent = "      "
	fmt.Fprintf(u.err, "%s\n", u.wrapped(u.paint(red, "adit:")+" "+f.Message, indent))
	if f.Hint != "" {
		fmt.Fprintf(u.err, "%s\n", u.wrapped(indent+f.Hint, indent))
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
	u.status = nil
	fmt.Fprintf(u.err, "%s:\n", u.wrapped(u.paint(bold, strings.TrimRight(question, ": \n")), ""))
}

// standBehind says that the terminal belongs to another program, as with ssh's ProxyCommand: from now on errors are
// printed and nothing else, but for one line that says what is waited for, once, if nothing has come after
// patienceFor. With -v everything is, in lines. SIGHUP from that program ends the command.
func (u *ui) standBehind() {
	u.behind.Store(true)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hideLocked()
	u.dataOut, u.redraw, u.status = true, false, nil
	if u.json || u.quiet || u.verbose || u.log != nil {
		return
	}
	u.patience = time.AfterFunc(patienceFor, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.patience != nil && u.doing != "" {
			u.patience = nil
			fmt.Fprintf(u.err, "adit: %s\n", u.doing)
		}
	})
}

// plain takes the status line away for good.
func (u *ui) plain() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hideLocked()
	u.status, u.redraw, u.moving = nil, false, false
}

// arrived says that what was waited for is there.
func (u *ui) arrived() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.arrivedLocked()
}

func (u *ui) arrivedLocked() {
	if u.patience != nil {
		u.patience.Stop()
		u.patience = nil
	}
}

// silent reports whether lines for a person are left out.
func (u *ui) silent() bool { return u.quiet || u.behind.Load() && !u.verbose }

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
	u.arrivedLocked()
	u.hideLocked()
	u.status, u.moving = nil, false
	if u.later != nil {
		u.later.Stop()
		u.later = nil
	}
}

// stateLocked shows what goes on now: in the status line, or as a line where there is none.
func (u *ui) stateLocked(s string) {
	u.moving = false
	if u.redraw {
		u.statusLocked(s + " …")
		return
	}
	u.lineLocked(s, "")
}

func (u *ui) lineLocked(head, tail string) {
	if u.silent() {
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
	return typeset.Wrap(s, indent, u.width())
}

// wrapped breaks a line at spaces where the terminal would break it within words.
func (u *ui) wrapped(s, indent string) string {
	if !u.redraw {
		return s
	}
	return typeset.Wrap(s, indent, u.width())
}

// statusLocked makes parts the status line; none takes it away.
func (u *ui) statusLocked(parts ...string) {
	if !u.redraw || u.quiet {
		return
	}
	u.hideLocked()
	u.status = parts
	u.showLocked()
}

func (u *ui) hideLocked() {
	if u.shown {
		fmt.Fprint(u.err, "\r\x1b[K")
		u.shown = false
	}
}

func (u *ui) showLocked() {
	if len(u.status) == 0 || u.silent() {
		return
	}
	how := faint
	if u.vivid {
		how = green
	}
	fmt.Fprint(u.err, u.paint(how, typeset.FitParts(u.status, u.width()-1)))
	u.shown = true
}

// A style is how text looks on a terminal.
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

// terminalSize returns the size of a terminal, or what most have.
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
