package cmd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"adit/internal/event"
	"adit/internal/fail"
)

// How a command that nobody watches writes what happens.
const (
	logText = "text"
	logJSON = "json"
)

// useLog makes u write slog records to standard error instead of lines for a person. format is what
// --log says; without it that is text under a service manager, whose journal has the times, and the
// lines for a person otherwise; any other format is no choice, which has been checked.
func (u *ui) useLog(format string) {
	journal := underJournal()
	switch format {
	case "":
		if !journal && !underManager() && !u.managed {
			return
		}
		u.log = slog.New(newLogHandler(u.err, logText, u.logLevel(), false, journal))
	case logText, logJSON:
		u.log = slog.New(newLogHandler(u.err, format, u.logLevel(), !(journal && format == logText), journal && format == logText))
	}
	u.redraw, u.colour = false, false
}

func (u *ui) logLevel() slog.Level {
	switch {
	case u.verbose:
		return slog.LevelDebug
	case u.quiet:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

func newLogHandler(w io.Writer, format string, level slog.Level, times, priorities bool) slog.Handler {
	opts := &slog.HandlerOptions{Level: level}
	if !times {
		opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey && priorities) {
				return slog.Attr{}
			}
			return a
		}
	}
	if format == logJSON {
		return slog.NewJSONHandler(w, opts)
	}
	if !priorities {
		return slog.NewTextHandler(w, opts)
	}
	p := &priorityWriter{w: w}
	return priorityHandler{slog.NewTextHandler(p, opts), p}
}

// A priorityHandler puts the priority in front of each line, as the journal takes it (sd-daemon(3)).
type priorityHandler struct {
	slog.Handler
	w *priorityWriter
}

// A priorityWriter belongs to whoever holds mu.
type priorityWriter struct {
	mu     sync.Mutex
	w      io.Writer
	prefix string
}

func (w *priorityWriter) Write(b []byte) (int, error) {
	if _, err := w.w.Write(append([]byte(w.prefix), b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (h priorityHandler) Handle(ctx context.Context, r slog.Record) error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	switch {
	case r.Level >= slog.LevelError:
		h.w.prefix = "<3>"
	case r.Level >= slog.LevelWarn:
		h.w.prefix = "<4>"
	case r.Level >= slog.LevelInfo:
		h.w.prefix = "<6>"
	default:
		h.w.prefix = "<7>"
	}
	return h.Handler.Handle(ctx, r)
}

func (h priorityHandler) WithAttrs(a []slog.Attr) slog.Handler {
	return priorityHandler{h.Handler.WithAttrs(a), h.w}
}

func (h priorityHandler) WithGroup(name string) slog.Handler {
	return priorityHandler{h.Handler.WithGroup(name), h.w}
}

// logEvent writes an event as a record. The caller holds mu.
func (u *ui) logEvent(e event.Event) {
	level, message := slog.LevelInfo, e.Name
	var attrs []slog.Attr
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	switch e.Name {
	case event.Up:
		message = "connected"
	case event.Interrupted:
		level, message = slog.LevelWarn, "interrupted: nothing comes from the peer"
	case event.Reloaded:
		if e.State == "failed" {
			level, message = slog.LevelWarn, "reload failed"
		}
	case event.Stream:
		message = "stream " + e.State
		level = slog.LevelDebug
		if e.State == "refused" {
			if show, skipped := u.refusalLocked(e.Peer); show {
				level = slog.LevelWarn
				if skipped > 0 {
					attrs = append(attrs, slog.Int("not logged", skipped))
				}
			}
		}
	}
	add("peer", e.Peer)
	add("token", e.Token)
	add("code", e.Code)
	add("words", strings.Join(e.Words, " "))
	add("path", e.Path)
	add("transport", e.Transport)
	add("local", e.Local)
	add("remote", e.Remote)
	if e.RTT > 0 {
		attrs = append(attrs, slog.Float64("rtt_ms", e.RTT))
	}
	add("addr", e.Addr)
	add("target", e.Target)
	add("reason", e.Message)
	add("hint", e.Hint)
	u.log.LogAttrs(context.Background(), level, message, attrs...)
}

// logFailure writes what ended the command.
func (u *ui) logFailure(f *fail.Failure) {
	level := slog.LevelError
	if f.Code == fail.Interrupted {
		level = slog.LevelInfo // somebody wanted it
	}
	attrs := []slog.Attr{slog.Int("code", f.Code)}
	if f.Hint != "" {
		attrs = append(attrs, slog.String("hint", f.Hint))
	}
	u.log.LogAttrs(context.Background(), level, f.Message, attrs...)
}

// logSay writes a line that a person would have got.
func (u *ui) logSay(format string, args ...any) {
	u.log.Info(fmt.Sprintf(format, args...))
}
