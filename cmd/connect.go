package cmd

import (
	"context"
	"os"

	"adit/internal/event"
	"adit/internal/peer"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

func connectCommand(u *ui) *cli.Command {
	return &cli.Command{
		Name:      "connect",
		Usage:     "join a peer that exposes something, and forward to it",
		ArgsUsage: "[CODE]",
		Description: `Join a peer that runs "adit expose", by the code it shows or by pasting its line, and forward
local ports to what it offers. Without -L and -W everything it offers gets a local port, the
same one where that is free.

  adit connect -L 2222                          paste; local 2222 to what is exposed
  adit connect CODE -L 8080:localhost:80        by code; ssh's grammar
  adit connect CODE -L 0                        any free port; it is printed
  ssh -o ProxyCommand='adit connect CODE -W localhost:22' host

With -W it uses the session of another connect with the same CODE or --share NAME, if one of
yours is running, and is there at once.`,
		Flags: append(ownFlags("connect", append(shareFlags(),
			&cli.StringSliceFlag{Name: "local", Aliases: []string{"L"}, Usage: "`FORWARD` a port to the peer: [BIND:]PORT[:HOST:HOSTPORT], as in ssh; several times if you like"},
			&cli.StringFlag{Name: "stdio", Aliases: []string{"W"}, Usage: "join standard input and output to `HOST:PORT` at the peer"},
		)...), commonFlags(meetingFlags, outputFlags)...),
		Action: action(u, func(ctx context.Context, c *cli.Context) error {
			cfg, err := meeting(u, c)
			if err != nil {
				return err
			}
			if c.NArg() > 1 {
				return usagef("for example: adit connect CODE -L 2222", "connect takes one code, not %d arguments", c.NArg())
			}
			var forwards []tunnel.Forward
			for _, s := range c.StringSlice("local") {
				f, err := tunnel.ParseForward(s)
				if err != nil {
					return usagef("for example: adit connect -L 2222", "%v", err)
				}
				forwards = append(forwards, f)
			}
			var stdio *tunnel.Target
			if s := c.String("stdio"); s != "" {
				t, err := tunnel.ParseTarget(s)
				if err != nil {
					return usagef("for example: adit connect CODE -W localhost:22", "%v", err)
				}
				stdio = &t
			}
			names, err := sharedAs(c)
			if err != nil {
				return err
			}
			if stdio != nil && len(forwards) == 0 {
				u.dataOut = true
				if found, err := borrow(ctx, u, names, *stdio); found || err != nil {
					return err
				}
			}
			cfg.Role, cfg.Code = peer.Connecter, c.Args().First()
			if err := checkCode(cfg.Signal, cfg.Code, "expose"); err != nil {
				return err
			}
			return connect(ctx, u, cfg, names, forwards, stdio)
		}),
	}
}

func connect(ctx context.Context, u *ui, cfg peer.Config, names []string, forwards []tunnel.Forward, stdio *tunnel.Target) error {
	u.dataOut = stdio != nil
	u.onToken = "Send this line back to the other side:"
	later := newLaterSession()
	lent := u.run.share(names, later, u.streamOptions())
	var listeners []*tunnel.Listener
	// Closing a listener resets what is left of its connections, so it comes after the session's end.
	defer func() {
		for _, l := range listeners {
			_ = l.Close() // never fails
		}
	}()
	lctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	for _, f := range forwards {
		l, err := tunnel.Listen(lctx, later, f, u.streamOptions())
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	s, end, err := meet(ctx, u, cfg, stdio != nil)
	if err != nil {
		return err
	}
	defer end()
	later.set(tunnel.Over(s.Streams()))
	for i, l := range listeners {
		announce(u, l, forwards[i].Target, s.Targets())
	}
	if stdio != nil {
		err := tunnel.Stdio(ctx, later, *stdio, os.Stdin, os.Stdout)
		if err == nil {
			lent.finish(ctx)
		}
		return streamEnded(ctx, s, err)
	}
	if len(forwards) == 0 {
		if listeners, err = forwardAll(lctx, u, later, s.Targets()); err != nil {
			return err
		}
	}
	return wait(ctx, s)
}

// forwardAll gives every target of the peer a local port: its own where that is free.
func forwardAll(ctx context.Context, u *ui, s tunnel.Session, targets []string) ([]*tunnel.Listener, error) {
	if len(targets) == 0 {
		return nil, &failure{code: exitRefused, message: "the other side offers nothing to forward to", hint: `have it run "adit expose TARGET…"`}
	}
	var listeners []*tunnel.Listener
	for _, name := range targets {
		t, err := tunnel.ParseTarget(name)
		if err != nil {
			u.say("the other side offers %.100q, which makes no sense here: left out", name)
			continue
		}
		f := tunnel.Forward{Bind: "localhost", Port: t.Port, Target: t}
		l, err := tunnel.Listen(ctx, s, f, u.streamOptions())
		if err != nil && f.Port != 0 {
			// In use, or not for ordinary users.
			f.Port = 0
			l, err = tunnel.Listen(ctx, s, f, u.streamOptions())
		}
		if err != nil {
			return listeners, err
		}
		listeners = append(listeners, l)
		announce(u, l, t, targets)
		if f.Port != t.Port {
			u.say("local port %d is not to be had; -L chooses another", t.Port)
		}
	}
	return listeners, nil
}

// announce reports where a listener listens, and for what. The peer's default target gets its name.
func announce(u *ui, l *tunnel.Listener, t tunnel.Target, targets []string) {
	name := t.String()
	if t.IsDefault() && len(targets) > 0 {
		name = targets[0]
	}
	u.event(event.Event{Name: event.Listening, Addr: l.Addr().String(), Target: name})
}
