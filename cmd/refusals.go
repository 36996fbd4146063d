package cmd

import (
	"adit/internal/typeset"
	"fmt"
	"time"

	"golang.org/x/time/rate"
)

// A peer, or a program that keeps trying, does not fill the screen or the log with refused streams: of each peer so
// many lines at once, then one in a while.
const (
	refusalBurst = 10
	refusalEvery = 10 * time.Second
)

// refusals bounds what is written about refused streams, by the names of peers.
type refusals map[string]*refused

type refused struct {
	lines   *rate.Limiter
	skipped int // since the last line
}

// refusalLocked reports whether a refusal of a stream of that peer's is to be shown, and how many before were not.
func (u *ui) refusalLocked(peer string) (show bool, skipped int) {
	r := u.refusals[peer]
	if r == nil {
		if u.refusals == nil {
			u.refusals = make(refusals)
		}
		r = &refused{lines: rate.NewLimiter(rate.Every(refusalEvery), refusalBurst)}
		u.refusals[peer] = r
	}
	if !r.lines.Allow() {
		r.skipped++
		return false, 0
	}
	skipped, r.skipped = r.skipped, 0
	return true, skipped
}

// refusalLineLocked shows a refusal; with -v all of them, as everything else about streams.
func (u *ui) refusalLineLocked(peer, head, tail string) {
	show, skipped := u.refusalLocked(peer)
	if !show && !u.verbose {
		return
	}
	if skipped > 0 && !u.verbose {
		tail += fmt.Sprintf(" (%s before it not shown)", typeset.Counted(uint64(skipped), "refusal"))
	}
	u.lineLocked(head, tail)
}
