package peer

import (
	"slices"
	"time"

	"adit/internal/link"
	"adit/internal/punch"
)

// Stats is what a session is and did so far.
type Stats struct {
	Since         time.Time // when its path came up first
	Path          Path
	Transport     string   // of a relayed path, see docs/events.md; empty if it is direct
	Interrupted   bool     // nothing comes from the peer at present
	Local, Remote []string // candidates: type and address
	Link          link.Stats
	PacketBytes   int // the largest payload that a packet carries
	Streams       int // open now, those of the session's own not counted
}

// Stats returns what the session is and did so far. It may be called at any time.
func (s *Session) Stats() Stats {
	st := Stats{Since: s.began, Path: s.Path(), Link: s.LinkStats(), PacketBytes: s.PacketBytes(), Streams: s.streams.NumStreams()}
	s.end.mu.Lock()
	defer s.end.mu.Unlock()
	st.Transport, st.Interrupted = s.end.up.Transport, s.end.interrupted
	st.Local, st.Remote = candidateNames(s.end.candidates), candidateNames(s.end.remote)
	return st
}

// candidateNames writes candidates, each once: one that was found again by a new generation is no other.
func candidateNames(cs []punch.Candidate) []string {
	var names []string
	for _, c := range cs {
		if n := c.String(); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}
