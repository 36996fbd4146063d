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

// budget returns what the streams of this process may hold, and fits the process to that: text bytes, or for "" what
// the machine's memory suggests. It is called once.
func budget(text string) (*reliable.Budget, error) {
	available := memory.Available()
	n, err := streamBytes(text, available)
	if err != nil {
		return nil, err
	}
	memory.Bound(n, available)
	b := reliable.NewBudget(n)
	b.OnEase(memory.Release)
	return b, nil
}

// streamBytes returns the bytes that text, of --memory, says, or for "" what available memory suggests.
func streamBytes(text string, available int64) (int64, error) {
	if text == "" {
		return memory.Budget(available), nil
	}
	n, ok := parseSize(text)
	if !ok || n < leastMemory {
		return 0, usagef("for example --memory 64MiB", "--memory %q is no size of 1 MiB or more", text)
	}
	return n, nil
}

// flowBudget returns what flows of datagrams may take: flows bytes, of --flow-memory, or for "" four fifths of what streams
// may hold, which is what the other side lets one session have.
func flowBudget(streams, flows string) (*tunnel.FlowBudget, error) {
	if flows == "" {
		n, err := streamBytes(streams, memory.Available())
		return tunnel.NewFlowBudget(n / 5 * 4), err
	}
	n, ok := parseSize(flows)
	if !ok || n == 0 {
		return nil, usagef("for example --flow-memory 64MiB", "--flow-memory %q is no size", flows)
	}
	return tunnel.NewFlowBudget(n), nil
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
