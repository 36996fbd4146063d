package punch

import "net/netip"

// A run is datagrams that follow each other in memory and have one source: segment bytes each, of
// which the last may be shorter.
type run struct {
	b       []byte
	segment int
	from    netip.AddrPort
}

// firstRun returns how many of n bytes in datagrams of segment bytes leave as one run, if that holds
// at most datagrams and bytes. A single datagram always is a run.
func firstRun(n, segment, datagrams, bytes int) int {
	return min(n, max(1, min(datagrams, bytes/segment))*segment)
}

// join appends r to runs, or to the last of them if r is a single datagram that continues it. Its
// bytes then move up behind those of the last run, which must come before r in the same buffer, with
// nothing in between that is still needed. runs must have room: nothing is allocated.
func join(runs []run, r run) []run {
	if len(runs) > 0 && r.segment == len(r.b) {
		last := &runs[len(runs)-1]
		if last.from == r.from && r.segment <= last.segment && len(last.b)%last.segment == 0 {
			last.b = append(last.b, r.b...)
			return runs
		}
	}
	return append(runs, r)
}
