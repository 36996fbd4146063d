package cmd

import (
	"slices"
	"strings"
	"sync"
	"time"

	"adit/internal/control"
	"adit/internal/event"
	"adit/internal/metrics"
	"adit/internal/peer"
)

// A running is what this process does at present, for whoever asks: adit status, the service manager,
// metrics. It learns most of it from events. Any goroutine may use it; a nil one takes in nothing.
type running struct {
	command string
	since   time.Time

	mu        sync.Mutex
	doing     string // while there is no session
	targets   []string
	listening []runningListener
	sessions  []*runningSession
	opened    uint64
	refused   uint64
	lends     *lending              // nil lends nothing
	told      func()                // called after changes, without mu; may be nil
	ready     bool                  // it does what it is for, or waits for what it needs to
	past      map[string]totals     // of sessions that have ended, by the peer's name
	more      []func(*metrics.Page) // further figures
}

// A runningListener is one place where this process listens, or a peer does for it.
type runningListener struct {
	peer, side string
	control.Listener
}

func listenerOf(e event.Event) runningListener {
	return runningListener{e.Peer, e.Side, control.Listener{Addr: e.Addr, Target: e.Target}}
}

// A runningSession is one peer within reach.
type runningSession struct {
	met string // key, code, paste or exec
	*peer.Session
}

func newRunning(command string) *running {
	return &running{command: command, since: time.Now(), past: make(map[string]totals)}
}

// event takes in what happened.
func (r *running) event(e event.Event) {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.ready = r.ready || isReady(e)
	switch e.Name {
	case event.Gathering:
		r.doing = "finding this machine's addresses"
	case event.Token, event.Code:
		r.doing = "waiting for the other side"
	case event.Reachable:
		r.doing = "waiting for peers"
	case event.Unreachable:
		r.doing = "waiting for a rendezvous: " + e.Message
	case event.Calling, event.Unanswered:
		r.doing = "waiting for the peer"
	case event.Checking:
		r.doing = "trying paths to the peer"
	case event.Listening:
		r.listening = append(r.listening, listenerOf(e))
	case event.Stream:
		r.streamLocked(e)
	}
	told := r.told
	r.mu.Unlock()
	if told != nil {
		told()
	}
}

func (r *running) streamLocked(e event.Event) {
	switch e.State {
	case "open":
		r.opened++
	case "refused":
		r.refused++
	}
}

// unlisten takes back what a listening event said; none is no harm.
func (r *running) unlisten(e event.Event) {
	if r == nil {
		return
	}
	r.mu.Lock()
	if i := slices.Index(r.listening, listenerOf(e)); i >= 0 {
		r.listening = slices.Delete(r.listening, i, i+1)
	}
	r.mu.Unlock()
}

// offer says what peers may reach here.
func (r *running) offer(targets []string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.targets = slices.Clone(targets)
}

// add takes in a session, until it ends.
func (r *running) add(s *peer.Session, met string) {
	if r == nil {
		return
	}
	entry := &runningSession{met: met, Session: s}
	r.mu.Lock()
	r.sessions = append(r.sessions, entry)
	r.mu.Unlock()
	go func() { // ends with the session
		_ = s.Wait() // why it ended is for others
		last := entry.status()
		r.mu.Lock()
		r.past[last.Peer] = r.past[last.Peer].plus(last)
		r.sessions = slices.DeleteFunc(r.sessions, func(x *runningSession) bool { return x == entry })
		r.mu.Unlock()
		r.event(event.Event{})
	}()
}

// met says how peers meet by that --signal.
func met(signal string) string {
	switch {
	case byCode(signal):
		return "code"
	case strings.HasPrefix(signal, "exec:"):
		return "exec"
	}
	return "paste"
}

// status tells what the process does now.
func (r *running) status() control.Status {
	r.mu.Lock()
	sessions := slices.Clone(r.sessions)
	st := control.Status{
		Command: r.command, Since: r.since, State: "waiting", Doing: r.doing,
		Targets: slices.Clone(r.targets),
		Opened:  r.opened, Refused: r.refused, Sessions: []control.Session{},
	}
	for _, l := range r.listening {
		st.Listening = append(st.Listening, l.Listener)
	}
	r.mu.Unlock()
	for _, s := range sessions {
		st.Sessions = append(st.Sessions, s.status())
	}
	st.Now = time.Now()
	switch {
	case r.command == "serve":
		st.State, st.Doing = "serving", ""
	case len(sessions) > 0:
		st.State, st.Doing = "interrupted", ""
		if slices.ContainsFunc(st.Sessions, func(s control.Session) bool { return s.State == "up" }) {
			st.State = "up"
		}
	}
	return st
}

func (s *runningSession) status() control.Session {
	st := s.Stats()
	l := st.Link
	state := "up"
	if st.Interrupted {
		state = "interrupted"
	}
	return control.Session{
		Peer: s.Name(), Met: s.met, Since: st.Since, State: state,
		Path: control.Path{
			Kind: st.Path.Kind, Transport: st.Transport, Local: st.Path.Local, Remote: st.Path.Remote, To: st.Path.To.String(),
		},
		Local: st.Local, Remote: st.Remote,
		RTT: inMilliseconds(l.RTT), MinRTT: inMilliseconds(l.MinRTT), Streams: st.Streams,
		Rate: l.Rate * 8, Packet: l.MTU, Queue: l.Queue,
		Sent: l.SentBytes, Received: l.ReceivedBytes, SentPkts: l.SentPackets, RecvPkts: l.ReceivedPackets,
		Lost: l.Lost, Resent: l.Resent, Spurious: l.Spurious, Replayed: l.Replayed, Rejected: l.Rejected, Dropped: l.Dropped,
	}
}
