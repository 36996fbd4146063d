// Package memory fits the process to the memory that there is: how much its streams may hold, where the garbage
// collector gets eager, and when memory is given back to the system.
package memory

import (
	"os"
	"runtime/debug"
)

const (
	// The bounds of what streams may hold by default, in bytes. The largest is enough for one stream of 1 Gbit/s over a
	// round trip of 400 ms; see reliable.Budget for the shares.
	leastBudget = 16 << 20
	mostBudget  = 160 << 20

	// besides is what a process needs apart from its streams, with room for garbage.
	besides = 96 << 20
)

// Budget returns how many bytes streams may hold by default where the process may use so many: half, from 16 to 160 MiB.
// Where that is not known, 0, it is the most.
func Budget(available int64) int64 {
	if available <= 0 {
		return mostBudget
	}
	return min(max(available/2, leastBudget), mostBudget)
}

// Bound tells the garbage collector to work harder the closer the process gets to what its streams may hold and 96 MiB
// besides, or to seven eighths of what there is. It does nothing where the environment has GOMEMLIMIT, as package
// runtime reads it.
func Bound(budget, available int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit(budget, available))
	}
}

func limit(budget, available int64) int64 {
	n := budget + besides
	if available > 0 {
		n = min(n, available/8*7)
	}
	return n
}

// Release gives memory that is not in use back to the system. It takes some milliseconds for each 100 MiB in use.
func Release() {
	debug.FreeOSMemory() // pools keep what they have over one collection
	debug.FreeOSMemory()
}
