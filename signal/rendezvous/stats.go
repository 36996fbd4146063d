package rendezvous

import "context"

// Rooms returns how many rooms there are now.
func (s *Server) Rooms(ctx context.Context) (int, error) { return s.store.Rooms(ctx) }
