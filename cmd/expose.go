package cmd

import (
	"context"
	"fmt"
	"net"
	"slices"

	"adit/internal/bench"
	"adit/internal/peer"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

func exposeCommand(u *ui) *cli.Command {
	allow := &cli.BoolFlag{Name: "allow-bench", Usage: `let the peer measure the path with "adit bench"`}
	own := ownFlags("expose", allow)
	allow.EnvVars = append(allow.EnvVars, variable("", allow.Name)) // ADIT_ALLOW_BENCH says enough
	return &cli.Command{
		Name:      "expose",
		Usage:     "offer services of this machine to one peer",
		ArgsUsage: "TARGET…",
		Description: `Offer services of this machine, or of others that it reaches, to one peer, and print how to
connect. It ends when the peer does. The peer reaches the targets and nothing else; the first
one is what a plain "-L 2222" means.

  adit expose 22                            port 22 of this machine
  adit expose 22 db.lan:5432 /run/app.sock  several: ports, hosts, unix sockets
  adit expose 22 --signal https://meet.example.org
  adit expose --allow-bench                 nothing but "adit bench"`,
		Flags: append(own, commonFlags(meetingFlags, outputFlags)...),
		Action: action(u, func(ctx context.Context, c *cli.Context) error {
			cfg, err := meeting(u, c)
			if err != nil {
				return err
			}
			var targets []tunnel.Target
			for _, a := range c.Args().Slice() {
				t, err := tunnel.ParseTarget(a)
				if err != nil {
					return usagef("for example: adit expose 22", "%v", err)
				}
				targets = append(targets, t)
				cfg.Targets = append(cfg.Targets, t.String())
			}
			if len(targets) == 0 && !c.Bool("allow-bench") {
				return usagef("for example: adit expose 22", "expose wants at least one target: a port, host:port or the path of a unix socket")
			}
			cfg.Role = peer.Exposer
			return expose(ctx, u, c, cfg, tunnel.PolicyFor(targets...))
		}),
	}
}

func expose(ctx context.Context, u *ui, c *cli.Context, cfg peer.Config, policy tunnel.Policy) error {
	join, offers := "connect", slices.Clone(cfg.Targets)
	if c.Bool("allow-bench") {
		offers = append(offers, "adit bench")
	}
	if len(cfg.Targets) == 0 {
		join = "bench"
	}
	u.run.offer(offers)
	u.onCode = func(code string) string { return invitation(c, join, code) }
	u.onToken = fmt.Sprintf("On the other machine run %q and paste this line:", joinCommand(cfg, join))
	s, end, err := meet(ctx, u, cfg, false)
	if err != nil {
		return err
	}
	defer end()
	if u.redraw {
		u.say("serving %s; Ctrl-C to stop", list(offers))
	}
	offer := tunnel.Offer{Gate: tunnel.NewGate("", policy, u.logger())}
	if c.Bool("allow-bench") {
		offer.Bench = bench.NewServer(func() bench.Counters { return countersOf(s) }).Serve
	}
	ctx, stop := context.WithCancelCause(ctx)
	served := make(chan error, 1) // the one result of Serve
	go func() { served <- tunnel.Serve(ctx, tunnel.Over(s.Streams()), offer, u.streamOptions()) }()
	err = wait(ctx, s)
	end() // first the goodbye, so that the peer hears of an end and not of resets
	stop(net.ErrClosed)
	<-served // for the goroutines; the reason why it ended is the session's
	return err
}
