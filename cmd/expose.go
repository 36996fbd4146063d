package cmd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"adit/internal/bench"
	"adit/internal/config"
	"adit/internal/fail"
	"adit/internal/forwards"
	"adit/internal/identity"
	"adit/internal/peer"
	"adit/internal/plan"
	"adit/internal/rulebook"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

// exposeOptions are those of "adit expose".
type exposeOptions struct {
	given
	meetingOptions
	outputOptions
	attendOptions
	forwardOptions
	allowOptions
	listen, code, allowBench bool
	save                     string
}

func newExposeOptions() *exposeOptions { return new(exposeOptions) }

func (o *exposeOptions) list() []option {
	return slices.Concat(own("expose",
		option{name: "listen", to: &o.listen, usage: "serve all known peers (adit peers), until stopped"},
		option{name: "code", to: &o.code, usage: "with --listen, print codes for new peers, too"},
		saveOption(&o.save),
	), o.allowOptions.list("expose"), o.forwardOptions.list("expose"), o.attendOptions.list("expose"), own("expose",
		option{name: "allow-bench", to: &o.allowBench, usage: `let the peer measure the path with "adit bench"`, variables: []string{variable("allow-bench")}},
	), o.meetingOptions.list(), o.outputOptions.list())
}

func (o *exposeOptions) check(bad *complaints) {
	o.meetingOptions.check(bad)
	o.outputOptions.check(bad)
	o.allowOptions.check(bad)
	o.forwardOptions.check(bad, true)
	checkSave(o.save, bad)
}

// policy is for peers without rules of their own, with what the file says now.
func (o *exposeOptions) policy(file config.File) (tunnel.Policy, error) {
	now, err := reread(o, file)
	if err != nil {
		return tunnel.Policy{}, err
	}
	return now.allowed(o.args).Policy()
}

// texts are the forwards, with what the file says now.
func (o *exposeOptions) texts(file config.File) (plan.Texts, error) {
	now, err := reread(o, file)
	return now.forwardOptions.texts, err
}

func exposeCommand(u *ui) *cli.Command {
	return command(u, cli.Command{
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
	}, newExposeOptions, func(ctx context.Context, u *ui, o *exposeOptions) error {
		book, err := openBook(u, "expose", o, o.policy)
		if err != nil {
			return err
		}
		cfg := o.meetingOptions.config(u)
		cfg.Role, cfg.Targets = peer.Exposer, book.Offers("")
		if len(book.Words()) == 0 && !o.allowBench && o.forwardOptions.texts.Empty() {
			return fail.Usagef("for example: adit expose 22", "expose wants at least one target: a port, host:port or the path of a unix socket")
		}
		if o.listen {
			return listen(ctx, u, o, cfg, book)
		}
		if o.code {
			return fail.Usagef("leave it out, or say --listen too", "--code goes with --listen: without it there is a code anyway")
		}
		asked, err := plan.Parse(o.forwardOptions.texts)
		if err != nil {
			return err
		}
		if err := saving(o.save, o.file, &cfg); err != nil {
			return err
		}
		return expose(ctx, u, o, cfg, book, asked)
	})
}

func expose(ctx context.Context, u *ui, o *exposeOptions, cfg peer.Config, book *rulebook.Book, asked plan.Forwarding) error {
	gate, release := book.Gate("", identity.PublicKey{}, nil)
	defer release()
	join, offers := "connect", book.Words()
	if len(offers) == 0 && asked.Empty() {
		join = "bench"
	}
	if o.allowBench {
		offers = append(offers, "adit bench")
	}
	u.run.offer(offers)
	u.onCode = func(code string) string { return o.invitation(&o.given, join, code, join == "connect" && o.save != "") }
	u.onToken = fmt.Sprintf("On the other machine run %q and paste this line:", joinCommand(cfg, join))
	f, err := forwards.Open(ctx, u.told(), asked)
	if err != nil {
		return err
	}
	defer f.Close() // after the session's end
	defer u.onReload(func() error { return replan(book, f, o.texts) })()
	s, end, err := meet(ctx, u, cfg, false)
	if err != nil {
		return err
	}
	defer end()
	u.save(s, o.save, nil, strings.Join(append([]string{"adit expose"}, append(o.args, "--listen")...), " "))
	if u.redraw && len(offers) > 0 {
		u.say("serving %s; Ctrl-C to stop", list(offers))
	}
	offer := tunnel.Offer{Gate: gate}
	if o.allowBench {
		offer.Bench = bench.NewServer(func() bench.Counters { return countersOf(s) }).Serve
	}
	if err := f.Begin(s, offer); err != nil {
		return err
	}
	return forwards.Wait(ctx, s)
}
