package cmd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"adit/internal/leaktest"
)

// TestMain is adit itself when the test binary is started by that name: the scripts and the demo run
// it as processes of their own.
func TestMain(m *testing.M) {
	if strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe") == "adit" {
		os.Exit(Main(os.Args))
	}
	leaktest.Main(m, "kcp-go/v5.NewTimedSched") // the scheduler of kcp-go never ends
}
