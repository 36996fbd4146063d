package rendezvous

import "context"

// Stats is what a server holds now, and how often each limit has refused since its start.
type Stats struct {
	Connections int // of the listeners that it counts
	Waiting     int // requests that wait for something
	Mailboxes   int // of sessions
	Keys        int // mailboxes by key
	Refused     map[string]uint64
}

// Stats returns what the server does now.
func (s *Server) Stats() Stats {
	return Stats{
		Connections: s.gate.count(),
		Waiting:     s.limits.waiting(),
		Mailboxes:   s.mailboxes.count(),
		Keys:        s.keys.count(),
		Refused:     s.refused.totals(),
	}
}

// Rooms returns how many nameplates are in use now, those of used rooms included.
func (s *Server) Rooms(ctx context.Context) (int, error) { return s.store.Rooms(ctx) }
