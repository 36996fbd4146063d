package cmd

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"adit/internal/control"
	"adit/internal/event"
	"adit/internal/sdnotify"
	"adit/internal/typeset"
)

const (
	// notifyEvery bounds how often the service manager is told: streams come and go quickly.
	notifyEvery = 500 * time.Millisecond

	// readyAfter is when a process that still runs counts as ready: it waits for a network, or for its
	// peer, which is what it is for.
	readyAfter = 5 * time.Second
)

// isReady reports whether an event says that the process does what it is for: peers can find it, or it
// listens, or has a peer.
func isReady(e event.Event) bool {
	switch e.Name {
	case event.Code, event.Token, event.Listening, event.Up, event.Reachable, event.Unreachable, event.Calling, event.Unanswered:
		return true
	}
	return false
}

// notify keeps the service manager informed, if there is one, until ctx ends or the returned function is
// called. The watchdog is fed only while the state of all sessions can be read: where a lock is never
// given back it starves, and the manager starts the service again.
func (r *running) notify(ctx context.Context, logger *slog.Logger) func() {
	n := sdnotify.New()
	if n == nil {
		return func() {}
	}
	changed := make(chan struct{}, 1) // one says it all
	r.mu.Lock()
	r.told = func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	r.mu.Unlock()
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.notifying(ctx, n, changed, quit); err != nil {
			logger.Warn("the service manager does not hear", "err", err)
		}
	})
	return sync.OnceFunc(func() {
		close(quit)
		wg.Wait()
		_ = n.Stopping() // if it does not hear that either, nothing is lost
	})
}

// notifying runs until ctx ends or quit is closed. It returns the first error, and goes on: the manager
// may hear the next.
func (r *running) notifying(ctx context.Context, n *sdnotify.Notifier, changed, quit <-chan struct{}) (first error) {
	note := func(err error) {
		if first == nil {
			first = err
		}
	}
	var alive <-chan time.Time
	if d := n.Watchdog(); d > 0 {
		t := time.NewTicker(d / 2) // sd_watchdog_enabled(3)
		defer t.Stop()
		alive = t.C
	}
	patience := time.NewTimer(readyAfter)
	defer patience.Stop()
	calm := time.NewTimer(0)
	defer calm.Stop()
	<-calm.C
	waiting, ready, last := false, false, ""
	tell := func(late bool) {
		r.mu.Lock()
		isReady := r.ready || late
		r.mu.Unlock()
		text := summary(r.status())
		switch {
		case isReady && !ready:
			ready = true
			note(n.Ready(text))
		case text != last:
			note(n.Status(text))
		}
		last = text
	}
	for {
		select {
		case <-ctx.Done():
			note(n.Stopping())
			return first
		case <-quit:
			return first
		case <-alive:
			_ = r.status() // blocks where something hangs
			note(n.Alive())
		case <-patience.C:
			tell(true)
		case <-changed:
			if !waiting {
				waiting = true
				tell(false)
				calm.Reset(notifyEvery)
			}
		case <-calm.C:
			waiting = false
			tell(ready)
		}
	}
}

// summary says in a line what a process does.
func summary(s control.Status) string {
	switch len(s.Sessions) {
	case 0:
		if s.Command == "serve" {
			text := "serving"
			for i, l := range s.Listening {
				if i > 0 {
					text += ","
				}
				text += fmt.Sprintf(" %s at %s", l.Target, l.Addr)
			}
			return text
		}
		if s.Doing != "" {
			return s.Doing
		}
		return "waiting"
	case 1:
		p := s.Sessions[0]
		who := p.Peer
		if who == "" {
			who = "a peer"
		}
		if p.State == "interrupted" {
			return who + " is silent; waiting for it"
		}
		return fmt.Sprintf("%s: %s, %s, %s ↔ %s", who, p.Path.Kind, typeset.Milliseconds(p.RTT), p.Path.Local, p.Path.Remote)
	}
	direct, up := 0, 0
	for _, p := range s.Sessions {
		if p.Path.Kind == "direct" {
			direct++
		}
		if p.State == "up" {
			up++
		}
	}
	return fmt.Sprintf("%d peers, %d up, %d by a direct path", len(s.Sessions), up, direct)
}
