package cmd

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/event"
)

// A peer that asks for what is refused again and again neither fills the screen nor the log.
func TestRefusalsAreBounded(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(u *ui)
		peer   string
		want   int
		last   string
	}{
		{"screen", nil, "", refusalBurst + 1, "(90 refusals before it not shown)"},
		{"screen with peers", nil, "home", refusalBurst + 1, "(90 refusals before it not shown)"},
		{"log", func(u *ui) { u.log = slog.New(newLogHandler(u.err, logText, u.logLevel(), true, false)) }, "home", refusalBurst + 1, `"not logged"=90`},
		{"verbose", func(u *ui) { u.verbose = true }, "home", 101, "refused db:100: no"},
		{"JSON", func(u *ui) { u.json = true }, "home", 101, "db:100"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, out, errOut := screen(test.change)
				for i := range 101 {
					if i == 100 {
						time.Sleep(refusalEvery)
					}
					u.event(event.Event{Name: event.Stream, State: "refused", Peer: test.peer, Target: fmt.Sprint("db:", i), Message: "no"})
				}
				lines := strings.Split(strings.TrimSpace(out.String()+errOut.String()), "\n")
				if len(lines) != test.want || !strings.Contains(lines[len(lines)-1], test.last) {
					t.Errorf("%d lines, the last is %q; want %d and %q in it", len(lines), lines[len(lines)-1], test.want, test.last)
				}
				if show, skipped := u.refusalLocked("somebody else"); !show || skipped != 0 {
					t.Error("one peer's refusals hide those of another")
				}
			})
		})
	}
}
