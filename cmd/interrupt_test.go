package cmd

import (
	"os"
	"syscall"
	"testing"
)

func TestWishOf(t *testing.T) {
	for _, test := range []struct {
		sig          os.Signal
		ending, gone bool
		want         wish
	}{
		{os.Interrupt, false, false, wishEnd},
		{os.Interrupt, true, false, wishExit},
		{syscall.SIGTERM, false, true, wishEnd},
		{syscall.SIGTERM, true, true, wishExit},
		{syscall.SIGHUP, false, false, wishFiles},
		{syscall.SIGHUP, false, true, wishEnd},
		{syscall.SIGHUP, true, true, wishEnd}, // from the shell and from the kernel
		{syscall.SIGHUP, true, false, wishEnd},
	} {
		if got := wishOf(test.sig, test.ending, func() bool { return test.gone }); got != test.want {
			t.Errorf("%v, ending %v, terminal gone %v: got %v, want %v", test.sig, test.ending, test.gone, got, test.want)
		}
	}
}
