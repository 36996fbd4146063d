package cmd

import (
	"fmt"
	"strconv"
	"strings"

	"adit/internal/bench"
	"adit/internal/peer"
	"adit/internal/typeset"
)

// benchLabel is the width of the first column.
const benchLabel = 12

// benchTable lays out what was measured in lines of at most 39 columns, addresses apart. A phase that
// did not come to its end is missing.
func benchTable(r bench.Result, path peer.Path) []string {
	packets := strconv.Itoa(r.PacketBytes) + " bytes"
	if r.PeerPacketBytes != r.PacketBytes {
		packets = fmt.Sprintf("%d bytes up, %d down", r.PacketBytes, r.PeerPacketBytes)
	}
	lines := []string{
		"path        " + path.Kind,
		"this side   " + path.Local,
		"other side  " + path.Remote,
		"packets     " + packets,
		"",
	}
	rows := []struct {
		label string
		of    func(bench.Phase) string
	}{
		{"", func(p bench.Phase) string { return p.Name }},
		{"Mbit/s", func(p bench.Phase) string {
			if p.Name == bench.Idle {
				return "-"
			}
			return typeset.Digits(p.Bits / 1e6)
		}},
		{"p50 ms", func(p bench.Phase) string { return typeset.Digits(inMilliseconds(p.RTT.P50)) }},
		{"p90 ms", func(p bench.Phase) string { return typeset.Digits(inMilliseconds(p.RTT.P90)) }},
		{"p99 ms", func(p bench.Phase) string { return typeset.Digits(inMilliseconds(p.RTT.P99)) }},
		{"lost %", func(p bench.Phase) string { return percent(p.Lost, p.Sent) }},
		{"resent %", func(p bench.Phase) string { return percent(p.Resent, p.Sent) }},
	}
	for _, row := range rows {
		var b strings.Builder
		fmt.Fprintf(&b, "%-*s", benchLabel, row.label)
		for _, p := range r.Phases {
			fmt.Fprintf(&b, "%9s", row.of(p))
		}
		lines = append(lines, b.String())
	}
	return lines
}

// percent prints a share; of nothing it is none.
func percent(part, all uint64) string {
	if all == 0 {
		return "0"
	}
	share := 100 * float64(part) / float64(all)
	if share > 0 && share < 0.001 {
		return "<0.001"
	}
	return typeset.Digits(share)
}
