package cmd

import (
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"adit/internal/leaktest"
)

// TestMain is adit itself when the test binary is started by that name: the scripts and the demo run
// it as processes of their own.
func TestMain(m *testing.M) {
	if strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe") == "adit" {
		os.Exit(Main(os.Args))
	}
	// A shell's background job ignores Ctrl-C, and what nohup runs ignores a hangup. So would the processes of
	// the scripts, which get both. What this process handles is not ignored in those that it starts.
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGHUP} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	leaktest.Main(m, "kcp-go/v5.NewTimedSched") // the scheduler of kcp-go never ends
}
