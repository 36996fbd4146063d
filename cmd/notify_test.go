//go:build unix

package cmd

import (
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/internal/event"
)

// TestNotifyManager: ready when a code is there and not before, then what goes on, and the end.
func TestNotifyManager(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", name)
	t.Setenv("WATCHDOG_USEC", "100000")
	t.Setenv("WATCHDOG_PID", "")
	r := newRunning("expose")
	end := r.notify(t.Context(), slog.New(slog.DiscardHandler))
	alive := 0
	next := func() string {
		t.Helper()
		b := make([]byte, 4096)
		for {
			c.SetReadDeadline(time.Now().Add(20 * time.Second))
			n, err := c.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			if s := string(b[:n]); s != "WATCHDOG=1\n" {
				return s
			}
			alive++
		}
	}
	r.event(event.Event{Name: event.Gathering})
	if got, want := next(), "STATUS=finding this machine's addresses\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r.event(event.Event{Name: event.Code, Code: "7-secret-words"})
	if got, want := next(), "READY=1\nSTATUS=waiting for the other side\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for range 100 {
		r.event(event.Event{Name: event.Checking})
	}
	if got, want := next(), "STATUS=trying paths to the peer\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	end()
	if got := next(); got != "STOPPING=1\n" {
		t.Errorf("got %q", got)
	}
	if alive == 0 {
		t.Error("the watchdog starves")
	}
}

func TestLogHandler(t *testing.T) {
	var b strings.Builder
	l := slog.New(newLogHandler(&b, logText, slog.LevelInfo, false, true)).With("peer", "home").WithGroup("g")
	l.Error("no", "a", 1)
	l.Warn("hm")
	l.Info("x y")
	l.Debug("never")
	want := "<3>msg=no peer=home g.a=1\n<4>msg=hm peer=home\n<6>msg=\"x y\" peer=home\n"
	if b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	b.Reset()
	slog.New(newLogHandler(&b, logJSON, slog.LevelInfo, true, false)).Info("x")
	if !strings.HasPrefix(b.String(), `{"time":"`) || !strings.Contains(b.String(), `"level":"INFO","msg":"x"}`) {
		t.Errorf("got %q", b.String())
	}
}
