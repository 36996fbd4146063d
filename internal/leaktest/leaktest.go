// Package leaktest ends a package's tests with an error if they left goroutines behind.
package leaktest

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// grace is how long goroutines that are already on their way out may take.
const grace = 30 * time.Second

// Main runs the tests of a package and exits with their result, or with 1 if a goroutine that they
// started outlives them. A TestMain calls it. While fuzzing it does not look: the fuzzing engine has
// goroutines of its own. Goroutines whose stack contains one of ignore may stay: libraries have some
// that start with the program and never end.
func Main(m *testing.M, ignore ...string) {
	flag.Parse()
	code := m.Run()
	if f := flag.Lookup("test.fuzz"); code == 0 && (f == nil || f.Value.String() == "") {
		if left := leaked(ignore); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "leaked %d goroutines:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// leaked returns the stacks of goroutines other than its own that are there when grace has passed.
func leaked(ignore []string) []string {
	deadline := time.Now().Add(grace)
	for {
		left := others(ignore)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(10 * time.Millisecond) // there is no event for the end of somebody's goroutine
	}
}

func others(ignore []string) []string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var left []string
	for i, g := range strings.Split(string(buf), "\n\n") {
		switch {
		case i == 0: // this one comes first
		case strings.Contains(g, "os/signal.loop"): // never ends once a signal was asked for
		case strings.Contains(g, "created by testing."): // the test framework's own
		case slices.ContainsFunc(ignore, func(s string) bool { return strings.Contains(g, s) }):
		default:
			left = append(left, g)
		}
	}
	return left
}
