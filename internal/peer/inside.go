//go:build hostile

package peer

import "adit/internal/link"

// Link returns the session's link, for the hostile peer of the tests.
func (s *Session) Link() *link.Link { return s.link }
