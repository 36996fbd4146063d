package rendezvous

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// The limits that refuse, as the log and the metrics name them: the keys of the configuration file, where there is one.
const (
	limitConnections    = "limit_connections"
	limitConnectionsOne = "limit_connections_of_one"
	limitConnectionRate = "limit_connections_per_minute"
	limitHandshakes     = "handshakes"
	limitDescriptors    = "descriptors"
	limitPolls          = "limit_polls"
	limitPollsOfOne     = "limit_polls_of_one"
	limitUploads        = "limit_bodies_of_one"
	limitBodies         = "limit_bodies"
	limitRequests       = "limit_requests_per_minute"
	limitRooms          = "limit_rooms_per_minute"
	limitStore          = "limit_rooms"
	limitMailboxes      = "limit_mailboxes"
	limitKeyboxes       = "limit_keys"
	limitClaims         = "limit_claims_per_minute"
	limitBytes          = "limit_bytes_per_minute"
	limitOffers         = "limit_offers_per_minute"
	limitOffersWaiting  = "limit_offers_waiting"
	limitFailedJoins    = "limit_failed_joins"
	limitCarry          = "carry"
	limitAccess         = "access"
)

const (
	refusalsEvery   = time.Minute // between two log records about a limit
	refusalsSources = 1024        // addresses that a record chooses from
)

// refusals tells the operator which limit refuses whom: the first refusal at once, further ones in one record a
// minute for each limit, with the address that was refused most.
type refusals struct {
	log *slog.Logger
	now func() time.Time

	mu sync.Mutex
	of map[string]*refusal
}

type refusal struct {
	total  uint64 // since the start
	since  int    // since the last record
	logged time.Time
	by     map[netip.Prefix]int // since the last record
}

// note counts a refusal of an address.
func (r *refusals) note(limit string, addr netip.Prefix) {
	r.mu.Lock()
	f := r.of[limit]
	if f == nil {
		f = &refusal{by: make(map[netip.Prefix]int)}
		r.of[limit] = f
	}
	f.total++
	f.since++
	if _, known := f.by[addr]; known || len(f.by) < refusalsSources {
		f.by[addr]++
	}
	now := r.now()
	if !f.logged.IsZero() && now.Sub(f.logged) < refusalsEvery {
		r.mu.Unlock()
		return
	}
	most := addr
	for a, n := range f.by {
		if n > f.by[most] {
			most = a
		}
	}
	count, of, addresses := f.since, f.by[most], len(f.by)
	f.since, f.logged = 0, now
	clear(f.by)
	r.mu.Unlock()
	who := "unknown"
	if most.IsValid() {
		who = strings.TrimSuffix(most.String(), "/32")
	}
	r.log.Warn("refused by a limit", "limit", limit, "refused", count, "addresses", addresses, "most", who, "of_it", of)
}

// totals returns how often each limit has refused, by its name.
func (r *refusals) totals() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]uint64, len(r.of))
	for limit, f := range r.of {
		out[limit] = f.total
	}
	return out
}

// retryIn is the advice to wait for d, in words.
func retryIn(d time.Duration) string {
	return fmt.Sprintf("try again in %v", max(d.Round(time.Second), time.Second))
}
