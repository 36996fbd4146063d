// In package link: this file sets what the random numbers of sim_test.go begin with.

package link

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
)

// A trial is one run of a simulation. What it finds wrong is kept.
type trial struct {
	*testing.T
	faults []string
}

func (x *trial) Errorf(format string, args ...any) {
	x.faults = append(x.faults, fmt.Sprintf(format, args...))
}

// luck is what the pipes' random numbers begin with.
var luck uint64 = 1

var raced = map[string]bool{}

// trials runs a simulation in a bubble. Its losses, its cycles and the order in which its goroutines run
// are luck, and so are its figures: they count if two runs of three agree.
func trials(t *testing.T, f func(*trial)) {
	t.Helper()
	defer func() { luck = 1 }()
	if name := t.Name()[:max(strings.LastIndex(t.Name(), "/"), 0)]; raceEnabled {
		if raced[name] {
			t.Skip("one of them is enough for the race detector, under which they take minutes")
		}
		raced[name] = true
	}
	var good int
	var faults []string
	for i := range 3 {
		x := new(trial)
		luck = uint64(i + 1)
		synctest.Test(t, func(t *testing.T) {
			x.T = t
			f(x)
		})
		if len(x.faults) == 0 {
			good++
		}
		faults = append(faults, x.faults...)
		if i == 0 && good == 1 || good == 2 {
			return
		}
		if i-good == 1 {
			break // two have failed
		}
	}
	for _, f := range faults {
		t.Error(f)
	}
}
