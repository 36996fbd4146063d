package cmd

import (
	"context"
	"net/http"
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
	if turn != nil {
		p.Family("adit_relay_allocations", "Addresses that peers have on the relay now.", metrics.Gauge)
		p.Sample(float64(turn.Allocations()))
	}
}
