package forwards

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"adit/internal/event"
	"adit/internal/fail"
	"adit/internal/plan"
	"adit/tunnel"
)

// Change makes plan what is forwarded. What stays the same is not touched, and connections that are open
// over what goes go on. After an error the rest of plan is in force, but for what a silent peer was not asked for: the
// next begin asks for that.
func (f *Forwarder) Change(asked plan.Forwarding) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	return f.changeLocked(asked)
}

func (f *Forwarder) changeLocked(asked plan.Forwarding) error {
	var want []opened
	for _, list := range []struct {
		flag     string
		forwards []tunnel.Forward
	}{{"-L", asked.Local}, {"-D", asked.Dynamic}, {"-R", asked.Remote}} {
		for _, w := range list.forwards {
			want = append(want, opened{flag: list.flag, forward: w})
		}
	}
	has := func(list []opened, o opened) bool {
		return slices.ContainsFunc(list, func(x opened) bool { return x.flag == o.flag && x.forward == o.forward })
	}
	// Those that the command chose by itself, for a peer of whom nobody said what to forward, stay.
	f.plan = asked
	var stay []opened
	for _, o := range f.opened {
		if o.chosen || has(want, o) {
			stay = append(stay, o)
			continue
		}
		// First these: what is new may want their ports.
		f.told.Say("%sforwards no more: %s %s", f.prefix(), o.flag, o.forward)
		f.told.Unlisten(o.told)
		if o.there != nil {
			_ = o.there.Close() // the session may have ended
		}
		if o.here != nil {
			o.here.Drain()
			f.drained = append(f.drained, o.here)
		}
	}
	f.opened = stay
	var first error
	for _, o := range want {
		if has(f.opened, o) {
			continue
		}
		err := f.openLocked(o)
		if err != nil && first == nil {
			first = err
		}
		if errors.Is(err, ErrNoAnswer) {
			break // nor would it answer to the next, and others wait
		}
	}
	return first
}

// openLocked puts one forward in force. One of -R waits for the session.
func (f *Forwarder) openLocked(o opened) error {
	var err error
	switch {
	case o.flag == "-L":
		o.here, err = tunnel.Listen(f.ctx, f.session, o.forward, f.Options())
	case o.flag == "-D":
		o.here, err = tunnel.ListenDynamic(f.ctx, f.session, o.forward, f.Options())
	case f.begun == nil:
		return nil
	default:
		o.there, err = f.listenThere(o.forward)
	}
	if err != nil {
		return err
	}
	f.tell(&o)
	f.opened = append(f.opened, o)
	return nil
}

// listenThere has the peer listen. Where the session is silent it waits for remoteWait at most, and then says
// ErrNoAnswer; it ends at once with the session or the command.
func (f *Forwarder) listenThere(w tunnel.Forward) (*tunnel.RemoteListener, error) {
	ctx, cancel := context.WithTimeoutCause(f.ctx, remoteWait, ErrNoAnswer)
	defer cancel()
	defer context.AfterFunc(f.command, cancel)()
	// Not over f.session, which would wait for the session after this one.
	l, err := f.remotes.Listen(ctx, tunnel.Over(f.begun.Streams()), w)
	var refused *tunnel.RefusedError
	switch {
	case err == nil:
		return l, nil
	case errors.As(err, &refused) && refused.Code == tunnel.CodeRefused:
		return nil, &fail.Failure{Code: fail.Refused, Message: err.Error(), Hint: fmt.Sprintf("have the other side allow it with --allow-remote %s", strings.TrimPrefix(w.Place(), "localhost:"))}
	case f.command.Err() != nil:
		return nil, context.Cause(f.command)
	case errors.Is(context.Cause(ctx), ErrNoAnswer):
		return nil, fmt.Errorf("have the peer listen on %s: %w", w.Place(), ErrNoAnswer)
	}
	return nil, Ended(f.ctx, f.begun, err)
}

// tell reports where is listened, and for what, once, when there is a session.
func (f *Forwarder) tell(o *opened) {
	e := event.Event{Name: event.Listening, Peer: f.peer}
	switch {
	case f.begun == nil || o.told.Name != "":
		return
	case o.flag == "-L":
		e.Addr, e.Target = o.here.Addr().String(), targetName(o.forward.Target, f.begun.Targets())
	case o.flag == "-D":
		e.Addr, e.Target = o.here.Addr().String(), "socks"
	default:
		e.Side, e.Addr, e.Target = event.Peer, o.there.Addr(), o.forward.Target.String()
	}
	o.told = e
	f.told.Event(e)
}

// prefix names the peer where there are several.
func (f *Forwarder) prefix() string {
	if f.peer == "" {
		return ""
	}
	return f.peer + ": "
}

// Choose forwards what nobody has asked for by itself.
func (f *Forwarder) Choose(w tunnel.Forward) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.openLocked(opened{flag: "-L", forward: w, chosen: true})
}

// targetName says where a forward leads. The peer's default target gets its name.
func targetName(t tunnel.Target, targets []string) string {
	if !t.IsDefault() {
		return t.String()
	}
	for _, s := range targets {
		if strings.HasSuffix(s, "/udp") == t.UDP || strings.HasPrefix(s, "unix:") && !t.UDP {
			return s
		}
	}
	return t.String()
}

// ForwardAll gives every target of the peer a local port: its own where that is free.
func (f *Forwarder) ForwardAll(targets []string) error {
	if len(targets) == 0 {
		return &fail.Failure{Code: fail.Refused, Message: "the other side offers nothing to forward to", Hint: `have it run "adit expose TARGET…"`}
	}
	for _, name := range targets {
		t, err := tunnel.ParseTarget(name)
		if err != nil {
			f.told.Say("the other side offers %.100q, which makes no sense here: left out", name)
			continue
		}
		w := tunnel.Forward{Bind: "localhost", Port: t.Port, Target: t}
		if err = f.Choose(w); err != nil && w.Port != 0 {
			// In use, or not for ordinary users.
			w.Port = 0
			err = f.Choose(w)
		}
		if err != nil {
			return err
		}
		if w.Port != t.Port {
			f.told.Say("local port %d is not to be had; -L chooses another", t.Port)
		}
	}
	return nil
}
