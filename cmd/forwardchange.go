package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"adit/internal/event"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

// planOf returns what a connecter forwards: what its command line says, or else the [[forward]] tables of
// the peer, or else the [connect] table. With -W only the command line counts: a second ssh must not
// want the ports of the first.
func planOf(c *cli.Context, file configFile, peer string) (forwarding, error) {
	flags := []string{"local", "remote", "dynamic"}
	given := func(flag string) bool { return c.IsSet(flag) && !fromConfig(c, flag) }
	alone := given("stdio")
	var texts [3][]string
	for i, flag := range flags {
		if given(flag) {
			alone = true
			texts[i] = c.StringSlice(flag)
		}
	}
	if !alone {
		texts[0], texts[1], texts[2] = file.forwardsFor(peer)
		alone = len(texts[0])+len(texts[1])+len(texts[2]) > 0
	}
	if !alone {
		for i, flag := range flags {
			texts[i] = file.settings[keyOf(c.Command.Name, flag)].values
		}
	}
	return parseForwarding(texts[0], texts[1], texts[2])
}

// change makes plan what is forwarded. What stays the same is not touched, and connections that are open
// over what goes go on. After an error the rest of plan is in force, but for what a silent peer was not asked for: the
// next begin asks for that.
func (f *forwarder) change(plan forwarding) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	return f.changeLocked(plan)
}

func (f *forwarder) changeLocked(plan forwarding) error {
	var want []opened
	for _, list := range []struct {
		flag     string
		forwards []tunnel.Forward
	}{{"-L", plan.local}, {"-D", plan.dynamic}, {"-R", plan.remote}} {
		for _, w := range list.forwards {
			want = append(want, opened{flag: list.flag, forward: w})
		}
	}
	has := func(list []opened, o opened) bool {
		return slices.ContainsFunc(list, func(x opened) bool { return x.flag == o.flag && x.forward == o.forward })
	}
	// Those that the command chose by itself, for a peer of whom nobody said what to forward, stay.
	f.plan = plan
	var stay []opened
	for _, o := range f.opened {
		if o.chosen || has(want, o) {
			stay = append(stay, o)
			continue
		}
		// First these: what is new may want their ports.
		f.u.say("%sforwards no more: %s %s", f.prefix(), o.flag, o.forward)
		f.u.run.unlisten(o.told)
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
		if errors.Is(err, errNoAnswer) {
			break // nor would it answer to the next, and others wait
		}
	}
	return first
}

// openLocked puts one forward in force. One of -R waits for the session.
func (f *forwarder) openLocked(o opened) error {
	var err error
	switch {
	case o.flag == "-L":
		o.here, err = tunnel.Listen(f.ctx, f.session, o.forward, f.streamOptions())
	case o.flag == "-D":
		o.here, err = tunnel.ListenDynamic(f.ctx, f.session, o.forward, f.streamOptions())
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
// errNoAnswer; it ends at once with the session or the command.
func (f *forwarder) listenThere(w tunnel.Forward) (*tunnel.RemoteListener, error) {
	ctx, cancel := context.WithTimeoutCause(f.ctx, remoteWait, errNoAnswer)
	defer cancel()
	defer context.AfterFunc(f.command, cancel)()
	// Not over f.session, which would wait for the session after this one.
	l, err := f.remotes.Listen(ctx, tunnel.Over(f.begun.Streams()), w)
	var refused *tunnel.RefusedError
	switch {
	case err == nil:
		return l, nil
	case errors.As(err, &refused) && refused.Code == tunnel.CodeRefused:
		return nil, &failure{code: exitRefused, message: err.Error(), hint: fmt.Sprintf("have the other side allow it with --allow-remote %s", strings.TrimPrefix(w.Place(), "localhost:"))}
	case f.command.Err() != nil:
		return nil, context.Cause(f.command)
	case errors.Is(context.Cause(ctx), errNoAnswer):
		return nil, fmt.Errorf("have the peer listen on %s: %w", w.Place(), errNoAnswer)
	}
	return nil, streamEnded(f.ctx, f.begun, err)
}

// tell reports where is listened, and for what, once, when there is a session.
func (f *forwarder) tell(o *opened) {
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
	f.u.event(e)
}

// prefix names the peer where there are several.
func (f *forwarder) prefix() string {
	if f.peer == "" {
		return ""
	}
	return f.peer + ": "
}

// choose forwards what nobody has asked for by itself.
func (f *forwarder) choose(w tunnel.Forward) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.openLocked(opened{flag: "-L", forward: w, chosen: true})
}
