package cmd

import (
	"context"
	"slices"
	"strings"
	"sync"

	"adit/internal/peer"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

func connectCommand(u *ui) *cli.Command {
	return &cli.Command{
		Name:      "connect",
		Usage:     "join a peer that exposes something, and forward to it",
		ArgsUsage: "[CODE or NAME]",
		Description: `Join a peer that runs "adit expose", by the code it shows or by pasting its line, and forward
local ports to what it offers. Without -L and -W everything it offers gets a local port, the
same one where that is free.

  adit connect -L 2222                        paste; 2222 to what is exposed
  adit connect CODE -L 8080:localhost:80      by code; ssh's grammar
  adit connect NAME -L 2222                   a known peer, again and again
  adit connect CODE -L 0                      any free port; it is printed
  adit connect CODE -L 5353:localhost:53/udp  datagrams
  adit connect CODE -R 8080:localhost:80      their port 8080 to a server here
  adit connect CODE -D 1080                   SOCKS 5: what its clients ask for
  ssh -o ProxyCommand='adit connect CODE -W localhost:22' host

With -W it uses the session of another connect with the same CODE or --share NAME, if one of
yours is running, and is there at once.`,
		Flags: append(ownFlags("connect", append(slices.Concat(forwardFlags(), allowFlags(), shareFlags(), attendFlags()),
			&cli.StringFlag{Name: "stdio", Aliases: []string{"W"}, Usage: "join standard input and output to `HOST:PORT` there"},
			saveFlag(),
		)...), commonFlags(meetingFlags, outputFlags)...),
		Action: action(u, func(ctx context.Context, c *cli.Context) error {
			cfg, err := meeting(u, c)
			if err != nil {
				return err
			}
			if c.NArg() > 1 {
				return usagef("for example: adit connect CODE -L 2222", "connect takes one code, not %d arguments", c.NArg())
			}
			name := peerName(c.Args().First())
			plan, err := planOf(c, configOf(c), name)
			if err != nil {
				return err
			}
			book, err := newRulebook(u, c, func(file configFile) (tunnel.Policy, error) { return allowedBy(c, file, nil) })
			if err != nil {
				return err
			}
			var stdio *tunnel.Target
			if s := c.String("stdio"); s != "" {
				t, err := tunnel.ParseTarget(s)
				if err != nil {
					return usagef("for example: adit connect CODE -W localhost:22", "%v", err)
				}
				if t.UDP {
					return usagef("for example: adit connect CODE -L 5353:"+s, "-W joins standard input and output to a connection, not to datagrams")
				}
				stdio = &t
			}
			names, err := sharedAs(c)
			if err != nil {
				return err
			}
			if stdio != nil && plan.empty() {
				u.dataOut = true
				if found, err := borrow(ctx, u, names, *stdio); found || err != nil {
					return err
				}
			}
			cfg.Role = peer.Connecter
			named, err := byName(c, &cfg)
			if err != nil {
				return err
			}
			if !named {
				cfg.Code = c.Args().First()
				if err := checkCode(cfg.Signal, cfg.Code, "expose"); err != nil {
					return err
				}
				if err := saving(c, &cfg); err != nil {
					return err
				}
			}
			return connect(ctx, u, c, cfg, names, plan, book, stdio)
		}),
	}
}

func connect(ctx context.Context, u *ui, c *cli.Context, cfg peer.Config, names []string, plan forwarding, book *rulebook, stdio *tunnel.Target) error {
	u.dataOut = stdio != nil
	u.onToken = "Send this line back to the other side:"
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, forget := context.WithCancelCause(ctx)
	defer forget(nil)
	f, err := openForwards(ctx, u, plan)
	if err != nil {
		return err
	}
	defer f.close() // after the session's end
	defer u.onReload(func() error {
		return book.replan(f, func(file configFile) (forwarding, error) {
			return planOf(c, file, peerName(c.Args().First()))
		})
	})()
	gate, release := book.gate(cfg.PeerName, cfg.Peer, func() {
		forget(usagef(`"adit peers add" makes it known again; then connect again`, "%s, or the key it had, is not among the known peers any more", cfg.PeerName))
	})
	defer release()
	if cfg.PeerName != "" {
		wg.Go(func() { book.follow(ctx) })
	}
	lent := u.run.share(names, f.session, u.streamOptions())
	var s *peer.Session
	var end func()
	if cfg.PeerName != "" && stdio == nil {
		s, end, err = meetKnown(ctx, u, cfg)
	} else {
		s, end, err = meet(ctx, u, cfg, stdio != nil)
	}
	if err != nil {
		return err
	}
	defer end()
	u.save(s, c.String("save"), cfg.Signals, "adit connect "+c.String("save"))
	offer := tunnel.Offer{Gate: gate}
	if err := f.begin(s, offer); err != nil {
		return err
	}
	if stdio != nil {
		err := tunnel.Stdio(ctx, f.session, *stdio, dataInput(u), dataOutput())
		if err == nil {
			lent.finish(ctx)
		}
		return written(streamEnded(ctx, s, err))
	}
	if plan.empty() {
		if err := f.forwardAll(s.Targets()); err != nil {
			return err
		}
	}
	if cfg.PeerName != "" {
		return stay(ctx, u, cfg, s, end, f.pause, func(s *peer.Session) error {
			return f.begin(s, offer)
		})
	}
	return wait(ctx, s)
}

// forwardAll gives every target of the peer a local port: its own where that is free.
func (f *forwarder) forwardAll(targets []string) error {
	if len(targets) == 0 {
		return &failure{code: exitRefused, message: "the other side offers nothing to forward to", hint: `have it run "adit expose TARGET…"`}
	}
	for _, name := range targets {
		t, err := tunnel.ParseTarget(name)
		if err != nil {
			f.u.say("the other side offers %.100q, which makes no sense here: left out", name)
			continue
		}
		w := tunnel.Forward{Bind: "localhost", Port: t.Port, Target: t}
		if err = f.choose(w); err != nil && w.Port != 0 {
			// In use, or not for ordinary users.
			w.Port = 0
			err = f.choose(w)
		}
		if err != nil {
			return err
		}
		if w.Port != t.Port {
			f.u.say("local port %d is not to be had; -L chooses another", t.Port)
		}
	}
	return nil
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
