package cmd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"adit/internal/bench"
	"adit/internal/identity"
	"adit/internal/peer"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

func exposeCommand(u *ui) *cli.Command {
	allow := &cli.BoolFlag{Name: "allow-bench", Usage: `let the peer measure the path with "adit bench"`}
	own := ownFlags("expose", append(slices.Concat(listenFlags(), allowFlags(), forwardFlags(), attendFlags()), allow)...)
	allow.EnvVars = append(allow.EnvVars, variable("", allow.Name)) // ADIT_ALLOW_BENCH says enough
	return &cli.Command{
		Name:      "expose",
		Usage:     "offer services of this machine to one peer, or to all known ones",
		ArgsUsage: "[TARGET…]",
		Description: `Offer services of this machine, or of others that it reaches, to one peer, and print how to
connect. It ends when the peer does. The peer reaches the targets and nothing else; the first
one is what a plain "-L 2222" means. A target may stand for many: 8000-8010, 10.0.0.0/8:80,
*.lan:443, or * for everything.

  adit expose 22                            port 22 of this machine
  adit expose 22 db.lan:5432 /run/app.sock  several: ports, hosts, unix sockets
  adit expose 53/udp 10.0.0.0/8:80          datagrams; a network
  adit expose --allow-remote 8080-8090      where the peer may listen here (-R)
  adit expose --allow-dynamic '*'           what it asks for by SOCKS (-D)
  adit expose 22 --signal URL               by a code instead of pasted lines
  adit expose 22 --listen --signal URL      to all known peers, until stopped
  adit expose 22 --listen -L bob=2222:localhost:22   and forward to one of them
  adit expose --allow-bench                 nothing but "adit bench"`,
		Flags: append(own, commonFlags(meetingFlags, outputFlags)...),
		Action: action(u, func(ctx context.Context, c *cli.Context) error {
			cfg, err := meeting(u, c)
			if err != nil {
				return err
			}
			book, err := newRulebook(u, c, func(file configFile) (tunnel.Policy, error) {
				return allowedBy(c, file, c.Args().Slice())
			})
			if err != nil {
				return err
			}
			cfg.Targets = book.offers("")
			cfg.Role = peer.Exposer
			something := len(book.words()) > 0 || c.Bool("allow-bench") || c.IsSet("local") || c.IsSet("remote") || c.IsSet("dynamic")
			if !something {
				return usagef("for example: adit expose 22", "expose wants at least one target: a port, host:port or the path of a unix socket")
			}
			if c.Bool("listen") {
				return listen(ctx, u, c, cfg, book)
			}
			plan, err := forwardingOf(c)
			if err != nil {
				return err
			}
			if c.Bool("code") {
				return usagef("leave it out, or say --listen too", "--code goes with --listen: without it there is a code anyway")
			}
			if err := saving(c, &cfg); err != nil {
				return err
			}
			return expose(ctx, u, c, cfg, book, plan)
		}),
	}
}

func expose(ctx context.Context, u *ui, c *cli.Context, cfg peer.Config, book *rulebook, plan forwarding) error {
	gate, release := book.gate("", identity.PublicKey{}, nil)
	defer release()
	join, offers := "connect", book.words()
	if len(offers) == 0 && plan.empty() {
		join = "bench"
	}
	if c.Bool("allow-bench") {
		offers = append(offers, "adit bench")
	}
	u.run.offer(offers)
	u.onCode = func(code string) string { return invitation(c, join, code) }
	u.onToken = fmt.Sprintf("On the other machine run %q and paste this line:", joinCommand(cfg, join))
	f, err := openForwards(ctx, u, plan)
	if err != nil {
		return err
	}
	defer f.close() // after the session's end
	defer u.onReload(func() error {
		return book.replan(f, func(file configFile) (forwarding, error) {
			return parseForwarding(valuesNow(c, file, "local"), valuesNow(c, file, "remote"), valuesNow(c, file, "dynamic"))
		})
	})()
	s, end, err := meet(ctx, u, cfg, false)
	if err != nil {
		return err
	}
	defer end()
	u.save(s, c.String("save"), nil, strings.Join(append([]string{"adit expose"}, append(c.Args().Slice(), "--listen")...), " "))
	if u.redraw && len(offers) > 0 {
		u.say("serving %s; Ctrl-C to stop", list(offers))
	}
	offer := tunnel.Offer{Gate: gate}
	if c.Bool("allow-bench") {
		offer.Bench = bench.NewServer(func() bench.Counters { return countersOf(s) }).Serve
	}
	if err := f.begin(s, offer); err != nil {
		return err
	}
	return wait(ctx, s)
}
