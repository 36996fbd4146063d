package peer

import (
	"context"
	"net/netip"
	"time"

	"adit/internal/link"
)

// A Path is the way packets take to the peer.
type Path struct {
	Kind   string         // "direct"
	Local  string         // candidate type and address of this side, when the path came up
	Remote string         // the same of the peer
	To     netip.AddrPort // where packets go now: not Remote's address if the peer moved
}

// Path returns the way packets take now.
func (s *Session) Path() Path {
	s.end.mu.Lock()
	defer s.end.mu.Unlock()
	return Path{Kind: s.end.up.Path, Local: s.end.up.Local, Remote: s.end.up.Remote, To: s.link.Remote()}
}

// Ping sends one sealed packet that the peer's link answers and returns the round trip time. It is not
// repeated when it is lost: ctx says how long to wait. It fails with ctx's cause, or when the session
// has ended, for which Wait has the reason.
func (s *Session) Ping(ctx context.Context) (time.Duration, error) { return s.link.Ping(ctx) }

// LinkStats returns what this side's half of the link did so far.
func (s *Session) LinkStats() link.Stats { return s.link.Stats() }

// PacketBytes returns the largest payload that a packet to the peer carries at present.
func (s *Session) PacketBytes() int { return s.link.MTU() }
