package cmd

import (
	"os"
	"syscall"
	"testing"
	"time"
)

func TestWishOf(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	never, soon, long := time.Time{}, now.Add(-secondAfter/2), now.Add(-secondAfter)
	for _, test := range []struct {
		sig    os.Signal
		ending time.Time
		gone   bool
		want   wish
	}{
		{os.Interrupt, never, false, wishEnd},
		{os.Interrupt, soon, false, wishEnd},
		{os.Interrupt, long, false, wishExit},
		{syscall.SIGTERM, never, true, wishEnd},
		{syscall.SIGTERM, soon, true, wishEnd}, // timeout(1) sends it twice
		{syscall.SIGTERM, long, true, wishExit},
		{syscall.SIGHUP, never, false, wishFiles},
		{syscall.SIGHUP, never, true, wishEnd},
		{syscall.SIGHUP, long, true, wishEnd}, // from the shell and from the kernel
		{syscall.SIGHUP, soon, false, wishEnd},
	} {
		if got := wishOf(test.sig, test.ending, now, func() bool { return test.gone }); got != test.want {
			t.Errorf("%v, ending since %v, terminal gone %v: got %v, want %v", test.sig, test.ending, test.gone, got, test.want)
		}
	}
}
