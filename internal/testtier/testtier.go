// Package testtier says how much of the tests is wanted.
//
// There are three tiers. The short one is what go test runs without more: no test in it takes longer than
// some two seconds, and together they break when adit is broken. The environment variable ADIT_TEST adds
// others: "long" what waits or measures for up to a minute, "full" also the forms that take up to an hour.
// scripts/test --long and --full set it, and give go test the time that a tier needs.
package testtier

import (
	"fmt"
	"os"
	"testing"
)

// variable is the name of the environment variable.
const variable = "ADIT_TEST"

// Long skips the test unless the long tier or the full one is wanted.
func Long(t testing.TB) {
	t.Helper()
	if !IsLong() {
		t.Skipf("not in the short tier: set %s=long", variable)
	}
}

// Full skips the test unless the full tier is wanted.
func Full(t testing.TB) {
	t.Helper()
	if !IsFull() {
		t.Skipf("in the full tier only: set %s=full", variable)
	}
}

// IsLong says whether the long tier or the full one is wanted.
func IsLong() bool { return wanted(os.Getenv(variable)) >= long }

// IsFull says whether the full tier is wanted.
func IsFull() bool { return wanted(os.Getenv(variable)) == full }

type tier int

const (
	short tier = iota
	long
	full
)

// wanted reads the variable's value. It panics if that is no tier: tests that were asked for and are
// skipped would pass.
func wanted(value string) tier {
	switch value {
	case "":
		return short
	case "long":
		return long
	case "full":
		return full
	}
	panic(fmt.Sprintf("testtier: %s is %q: set it to long or full, or unset it for the short tier", variable, value))
}
