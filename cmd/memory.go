package cmd

import (
	"strconv"
	"strings"

	"adit/internal/memory"
	"adit/reliable"
	"adit/tunnel"
)

// leastMemory is the least that --memory may say, in bytes: some streams move on that.
const leastMemory = 1 << 20

// budget returns what the streams of this process may hold, and fits the process to that: text bytes, which have been
// checked, or for "" what the machine's memory suggests. It is called once.
func budget(text string) *reliable.Budget {
	available := memory.Available()
	n := memory.Budget(available)
	if text != "" {
		n, _ = parseSize(text)
	}
	memory.Bound(n, available)
	b := reliable.NewBudget(n)
	b.OnEase(memory.Release)
	return b
}

// flowBudget returns what flows of datagrams may take: flows bytes, of --flow-memory, or for "" four fifths of what streams
// may hold, which is what the other side lets one session have. Both have been checked.
func flowBudget(streams, flows string) *tunnel.FlowBudget {
	if n, ok := parseSize(flows); ok && n > 0 {
		return tunnel.NewFlowBudget(n)
	}
	n := memory.Budget(memory.Available())
	if m, ok := parseSize(streams); ok {
		n = m
	}
	return tunnel.NewFlowBudget(n / 5 * 4)
}

// parseSize reads a number of bytes, with the units KiB, MiB and GiB, or K, M and G, which are the same.
func parseSize(s string) (n int64, ok bool) {
	unit := int64(1)
	for suffix, u := range map[string]int64{"K": 1 << 10, "M": 1 << 20, "G": 1 << 30} {
		for _, end := range []string{suffix + "iB", suffix} {
			if rest, found := strings.CutSuffix(s, end); found {
				s, unit = strings.TrimSpace(rest), u
			}
		}
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil || v < 0 || v > (1<<62)/unit {
		return 0, false
	}
	return v * unit, true
}
