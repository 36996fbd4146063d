package peer

import (
	"errors"
	"sync"

	"adit/internal/event"
	"adit/signal"
)

// client returns a client of the rendezvous at a URL whose troubles are reported as events: the first, and their end.
func (cfg Config) client(url string) *signal.Client {
	var mu sync.Mutex
	away := false
	return &signal.Client{URL: url, Trouble: func(err error) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil && !away:
			cfg.Events.Emit(unreachable(url, err))
		case err == nil && away:
			cfg.Events.Emit(event.Event{Name: event.Reachable, Addr: url, State: "again"})
		}
		away = err != nil
	}}
}

// unreachable is the event that a rendezvous cannot be used for now.
func unreachable(url string, err error) event.Event {
	e := event.Event{Name: event.Unreachable, Addr: signal.PublicURL(url), Message: err.Error()}
	var fault *signal.Fault
	if errors.As(err, &fault) {
		e.Message, e.Hint = fault.Problem, fault.Hint
	}
	return e
}
