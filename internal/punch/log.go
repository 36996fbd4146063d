package punch

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/pion/logging"
	"golang.org/x/time/rate"
)

// pionLogger gives pion's log to slog, at most ten lines a second. Warnings become debug lines: any
// unauthenticated packet can cause one. Trace lines, one or more for each packet, are dropped.
type pionLogger struct {
	log   *slog.Logger
	limit *rate.Limiter
}

type pionLoggers struct{ log *slog.Logger }

var (
	_ logging.LoggerFactory = pionLoggers{}
	_ logging.LeveledLogger = pionLogger{}
)

func (f pionLoggers) NewLogger(scope string) logging.LeveledLogger {
	return pionLogger{f.log.With("pion", scope), rate.NewLimiter(rate.Every(100*time.Millisecond), 20)}
}

func (l pionLogger) emit(level slog.Level, format string, args []any) {
	ctx := context.Background()
	if strings.Contains(format, "Pwd") || !l.log.Enabled(ctx, level) || !l.limit.Allow() {
		return // a password is nothing for a log
	}
	if args != nil {
		format = fmt.Sprintf(format, args...)
	}
	l.log.Log(ctx, level, format)
}

func (pionLogger) Trace(string)                   {}
func (pionLogger) Tracef(string, ...any)          {}
func (l pionLogger) Debug(s string)               { l.emit(slog.LevelDebug, s, nil) }
func (l pionLogger) Debugf(f string, args ...any) { l.emit(slog.LevelDebug, f, args) }
func (l pionLogger) Info(s string)                { l.emit(slog.LevelDebug, s, nil) }
func (l pionLogger) Infof(f string, args ...any)  { l.emit(slog.LevelDebug, f, args) }
func (l pionLogger) Warn(s string)                { l.emit(slog.LevelDebug, s, nil) }
func (l pionLogger) Warnf(f string, args ...any)  { l.emit(slog.LevelDebug, f, args) }
func (l pionLogger) Error(s string)               { l.emit(slog.LevelWarn, s, nil) }
func (l pionLogger) Errorf(f string, args ...any) { l.emit(slog.LevelWarn, f, args) }
