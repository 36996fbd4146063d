package cmd

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"adit/internal/metrics"
	"adit/internal/relay"
	"adit/signal/rendezvous"
)

// requests counts those that a rendezvous answered, by the first digit of the status; a connection that
// became something else has none.
type requests struct{ classes [6]atomic.Uint64 }

// counted returns h with its answers counted.
func (q *requests) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &statusWriter{ResponseWriter: w}
		h.ServeHTTP(c, r)
		if n := c.status / 100; n < len(q.classes) {
			q.classes[n].Add(1)
		}
	})
}

// A statusWriter remembers the status. What else a ResponseWriter can do, its Unwrap leads to.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// serveFigures writes what a server does. turn may be nil.
func serveFigures(p *metrics.Page, q *requests, meet *rendezvous.Server, turn *relay.TURN) {
	p.Family("adit_rendezvous_requests_total", "Requests answered, by the class of the HTTP status; other is a connection that carries packets.", metrics.Counter)
	for n, class := range []string{"other", "1xx", "2xx", "3xx", "4xx", "5xx"} {
		p.Sample(float64(q.classes[n].Load()), metrics.Label{Name: "class", Value: class})
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if rooms, err := meet.Rooms(ctx); err == nil { // else the figure is missing, which says so
		p.Family("adit_rendezvous_rooms", "Rooms in which peers meet now.", metrics.Gauge)
		p.Sample(float64(rooms))
	}
	now := meet.Stats()
	gauge := func(name, help string, n int) {
		p.Family(name, help, metrics.Gauge)
		p.Sample(float64(n))
	}
	gauge("adit_rendezvous_connections", "Connections to the rendezvous now.", now.Connections)
	gauge("adit_rendezvous_waiting", "Requests that wait for a peer now.", now.Waiting)
	gauge("adit_rendezvous_mailboxes", "Mailboxes of sessions now.", now.Mailboxes)
	gauge("adit_rendezvous_keys", "Mailboxes of keys now: machines that can be met by their key.", now.Keys)
	sampleEach(p, "adit_rendezvous_refused_total", "Refusals, by the limit that refused.", "limit", now.Refused)
	if turn == nil {
		return
	}
	gauge("adit_relay_allocations", "Addresses that peers have on the relay now.", turn.Allocations())
	done := turn.Stats()
	sampleEach(p, "adit_relay_bytes_total", "Bytes relayed, both ways, by the client's transport.", "transport", done.Bytes)
	sampleEach(p, "adit_relay_packets_total", "Packets relayed, both ways, by the client's transport.", "transport", done.Packets)
	sampleEach(p, "adit_relay_dropped_total", "Packets dropped for a rate or a volume, by the client's transport.", "transport", done.Dropped)
	p.Family("adit_relay_auth_failures_total", "Requests with a wrong or an ended credential.", metrics.Counter)
	p.Sample(float64(done.AuthFailures))
	p.Family("adit_relay_forbidden_total", "Permissions and channels refused, because no side of the room was seen at the address, or none may be there.", metrics.Counter)
	p.Sample(float64(done.Forbidden))
}

// sampleEach writes the counters of a map, in the order of their names.
func sampleEach(p *metrics.Page, family, help, label string, all map[string]uint64) {
	p.Family(family, help, metrics.Counter)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p.Sample(float64(all[name]), metrics.Label{Name: label, Value: name})
	}
}
