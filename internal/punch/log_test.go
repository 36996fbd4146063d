package punch

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// What strangers can cause is neither loud nor much.
func TestPionLogger(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	l := pionLoggers{log}.NewLogger("ice")
	l.Trace("no")
	l.Tracef("%s", "no")
	l.Debug("100%")
	l.Debugf("d%d", 1)
	l.Info("i")
	l.Infof("i%d", 1)
	l.Warn("w")
	l.Warnf("w%d", 1)
	l.Error("e")
	l.Errorf("e%d", 1)
	got := out.String()
	for _, want := range []string{"level=DEBUG msg=100% ", "msg=d1", "msg=i1", "level=DEBUG msg=w1", "level=WARN msg=e1", "pion=ice"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	if strings.Contains(got, "no") {
		t.Errorf("trace lines in\n%s", got)
	}
	out.Reset()
	for range 1000 {
		l.Warn("flood")
	}
	if n := strings.Count(out.String(), "flood"); n > 30 {
		t.Errorf("got %d lines of a flood", n)
	}
}
