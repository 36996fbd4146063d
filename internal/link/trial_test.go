// In package link: this file sets what the random numbers of sim_test.go begin with.

package link

import (
	"fmt"
	"strings"
	"sync"
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

// lucks has what the random numbers of each trial that runs begin with, by its *testing.T.
var lucks sync.Map

func luckOf(t *testing.T) uint64 {
	if v, ok := lucks.Load(t); ok {
		return v.(uint64)
	}
	return 1
}

var raced sync.Map // names of tests of which one case has run

// trials runs a simulation in a bubble. Its losses, its cycles and the order in which its goroutines run
// are luck, and so are its figures: they count if two runs of three agree.
func trials(t *testing.T, f func(*trial)) {
	t.Helper()
	if name := t.Name()[:max(strings.LastIndex(t.Name(), "/"), 0)]; raceEnabled {
		if _, more := raced.LoadOrStore(name, true); more {
			t.Skip("one of them is enough for the race detector, under which they take minutes")
		}
	}
	var good int
	var faults []string
	for i := range 3 {
		x := new(trial)
		synctest.Test(t, func(t *testing.T) {
			lucks.Store(t, uint64(i+1))
			defer lucks.Delete(t)
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
