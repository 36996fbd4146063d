package cmd

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"adit/internal/config"
	"adit/internal/fail"
	"adit/internal/forwards"
	"adit/internal/peer"
	"adit/internal/plan"
	"adit/internal/rulebook"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

// stdioSeek is how long -W looks for a known peer where no --timeout says: whoever runs ssh waits for it.
const stdioSeek = 15 * time.Second

// connectOptions are those of "adit connect".
type connectOptions struct {
	given
	meetingOptions
	outputOptions
	attendOptions
	forwardOptions
	allowOptions
	share   string
	noShare bool
	stdio   string
	save    string

	target *tunnel.Target // of stdio; nil without. Set by check
}

func newConnectOptions() *connectOptions { return new(connectOptions) }

func (o *connectOptions) list() []option {
	return slices.Concat(o.forwardOptions.list("connect"), o.allowOptions.list("connect"), own("connect",
		option{name: "share", to: &o.share, usage: "lend this session to other processes of yours as `NAME`: adit connect NAME -W HOST:PORT"},
		option{name: "no-share", to: &o.noShare, usage: "neither use another process's session for -W nor lend this one"},
	), o.attendOptions.list("connect"), own("connect",
		option{name: "stdio", short: "W", to: &o.stdio, usage: "join standard input and output to `HOST:PORT` there"},
		saveOption(&o.save),
	), o.meetingOptions.list(), o.outputOptions.list())
}

func (o *connectOptions) check(bad *complaints) {
	o.meetingOptions.check(bad)
	o.outputOptions.check(bad)
	o.allowOptions.check(bad)
	o.forwardOptions.check(bad, false)
	checkSave(o.save, bad)
	if o.share != "" && o.noShare {
		bad.add(fail.Usagef("leave one of the two out", "--share and --no-share exclude each other"))
	}
	if o.stdio == "" {
		return
	}
	t, err := tunnel.ParseTarget(o.stdio)
	switch {
	case err != nil:
		bad.about("stdio", "for example: adit connect CODE -W localhost:22", "%v", err)
	case t.UDP:
		bad.add(fail.Usagef("for example: adit connect CODE -L 5353:"+o.stdio, "-W joins standard input and output to a connection, not to datagrams"))
	default:
		o.target = &t
	}
}

// behind reports whether another program has the terminal.
func (o *connectOptions) behind() bool { return o.stdio != "" }

// peer returns the name, or the code, that the command line gives.
func (o *connectOptions) peer() string { return peerName(strings.Join(o.args, "-")) }

// policy is what the peer may do here, with what the file says now.
func (o *connectOptions) policy(file config.File) (tunnel.Policy, error) {
	now, err := reread(o, file)
	if err != nil {
		return tunnel.Policy{}, err
	}
	return now.allowed(nil).Policy()
}

// forwarded is what is forwarded, with what the file says now: what the command line says, or else the [[forward]] tables
// of the peer, or else the [connect] table. With -W only the command line counts: a second ssh must not want the ports of
// the first.
func (o *connectOptions) forwarded(file config.File) (plan.Texts, error) {
	now, err := reread(o, file)
	if err != nil {
		return plan.Texts{}, err
	}
	var line plan.Texts
	given := o.set("stdio")
	for flag, to := range map[string]*[]string{"local": &line.Local, "remote": &line.Remote, "dynamic": &line.Dynamic} {
		if o.set(flag) {
			given = true
			x, _ := named(o.list(), flag)
			*to = *x.to.(*[]string)
		}
	}
	if given {
		return line, nil
	}
	if t := file.ForwardsFor(o.peer()); !t.Empty() {
		return t, nil
	}
	return now.forwardOptions.texts, nil
}

func connectCommand(u *ui) *cli.Command {
	return command(u, cli.Command{
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
	}, newConnectOptions, func(ctx context.Context, u *ui, o *connectOptions) error {
		if len(o.args) > 1 && !isCode(o.args) {
			return fail.Usagef("for example: adit connect CODE -L 2222", "connect takes one code, not %d arguments", len(o.args))
		}
		texts, err := o.forwarded(o.file)
		if err != nil {
			return err
		}
		asked, err := plan.Parse(texts)
		if err != nil {
			return err
		}
		book, err := openBook(u, "connect", o, o.policy)
		if err != nil {
			return err
		}
		if o.target != nil && asked.Empty() {
			if found, err := borrow(ctx, u, o.names(), *o.target); found || err != nil {
				return err
			}
		}
		cfg := o.meetingOptions.config(u)
		cfg.Role = peer.Connecter
		known, err := byName(o.peer(), o.save, o.file, &cfg)
		if err != nil {
			return err
		}
		if !known {
			cfg.Code = strings.Join(o.args, "-")
			if err := checkCode(cfg.Signal, cfg.Code, "expose"); err != nil {
				return err
			}
			if err := saving(o.save, o.file, &cfg); err != nil {
				return err
			}
		}
		return connect(ctx, u, o, cfg, asked, book)
	})
}

func connect(ctx context.Context, u *ui, o *connectOptions, cfg peer.Config, asked plan.Forwarding, book *rulebook.Book) error {
	stdio := o.target
	u.onToken = "Send this line back to the other side:"
	u.afterOwn = "waiting for the other side to paste this line"
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, forget := context.WithCancelCause(ctx)
	defer forget(nil)
	f, err := forwards.Open(ctx, u.told(), asked)
	if err != nil {
		return err
	}
	defer f.Close() // after the session's end
	defer u.onReload(func() error { return replan(book, f, o.forwarded) })()
	gate, release := book.Gate(cfg.PeerName, cfg.Peer, func() {
		forget(fail.Usagef(`"adit peers add" makes it known again; then connect again`, "%s, or the key it had, is not among the known peers any more", cfg.PeerName))
	})
	defer release()
	if cfg.PeerName != "" {
		wg.Go(func() { book.Follow(ctx) })
	}
	lent := u.run.share(o.names(), f.Session(), u.lentOptions())
	var s *peer.Session
	var end func()
	if cfg.PeerName != "" && stdio == nil {
		u.stays = cfg.PeerName
		s, end, err = meetKnown(ctx, u, cfg)
	} else {
		if cfg.PeerName != "" {
			if cfg.SeekTimeout = cfg.Timeout; cfg.SeekTimeout == 0 {
				cfg.SeekTimeout = stdioSeek
			}
		}
		s, end, err = meet(ctx, u, cfg, stdio != nil)
	}
	if err != nil {
		return err
	}
	defer end()
	u.save(s, o.save, cfg.Signals, "adit connect "+o.save)
	offer := tunnel.Offer{Gate: gate}
	if err := f.Begin(s, offer); err != nil {
		return err
	}
	if stdio != nil {
		t := &transfer{began: time.Now()}
		in, out := t.counting(dataInput(u), dataOutput())
		err := tunnel.Stdio(ctx, f.Session(), *stdio, in, out)
		if err == nil {
			if u.verbose {
				u.say("%s", t.summary(time.Now(), pathOf(s)))
			}
			lent.finish(ctx)
		}
		return written(forwards.Ended(ctx, s, err))
	}
	if asked.Empty() {
		if err := f.ForwardAll(s.Targets()); err != nil {
			return err
		}
	}
	if cfg.PeerName != "" {
		return stay(ctx, u, cfg, s, end, f.Pause, func(s *peer.Session) error {
			return f.Begin(s, offer)
		})
	}
	return forwards.Wait(ctx, s)
}
