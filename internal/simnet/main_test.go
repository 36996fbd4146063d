package simnet

import (
	"testing"

	"adit/internal/leaktest"
)

// The scheduler of kcp-go, which the sweep brings along, starts with the program and never ends.
func TestMain(m *testing.M) { leaktest.Main(m, "kcp-go/v5.NewTimedSched") }
