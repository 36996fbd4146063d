//go:build unix

package acceptance

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"adit/internal/leaktest"
	"adit/internal/netlab"
)

func TestMain(m *testing.M) {
	// A shell's background job ignores Ctrl-C, and what nohup runs ignores a hangup. So would all processes
	// here, which get both. What this process handles is not ignored in those that it starts.
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGHUP} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	leaktest.Main(m)
}

// build builds adit once and returns its path.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "adit-acceptance-")
	if err != nil {
		return "", err
	}
	if err := removeAtEnd(dir); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "adit")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "adit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return path, nil
})

// removeAtEnd removes dir when this process is gone, even if it was killed: os.Exit runs no deferred
// calls. A shell waits for the end of a pipe that this process holds open.
func removeAtEnd(dir string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command("sh", "-c", `read -r _; rm -rf -- "$1"`, "sh", dir)
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		w.Close()
		return err
	}
	holdOpen = w
	return cmd.Process.Release()
}

var holdOpen *os.File // a file that nothing refers to gets closed

// adit returns the path of the binary, or skips the test where there can be no lab to use it in.
func adit(t testing.TB) string {
	t.Helper()
	netlab.Skip(t)
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
