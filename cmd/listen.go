package cmd

import (
	"context"
	"net"
	"sync"

	"adit/internal/bench"
	"adit/internal/event"
	"adit/internal/peer"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

// listenFlags are those of expose that serve known peers.
func listenFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "listen", Usage: "serve all known peers (adit peers), until stopped"},
		&cli.BoolFlag{Name: "code", Usage: "with --listen, print codes for new peers, too"},
		saveFlag(),
	}
}

// listen serves known peers until ctx ends.
func listen(ctx context.Context, u *ui, c *cli.Context, cfg peer.Config, book *rulebook) error {
	if len(cfg.Signals) == 0 {
		return usagef("name one with --signal URL", "peers are met by key at a rendezvous, and none is configured")
	}
	if err := ownKey(&cfg); err != nil {
		return err
	}
	sctx, stop := context.WithCancelCause(ctx)
	defer stop(net.ErrClosed)
	plans, err := book.plans()
	if err != nil {
		return err
	}
	forwards, err := openPeerForwards(sctx, u, plans)
	if err != nil {
		return err
	}
	defer forwards.close() // after the sessions' end
	defer u.onReload(func() error { return book.replanAll(forwards) })()
	cfg.Codes = c.Bool("code")
	cfg.Keep = c.String("save") != ""
	cfg.Admit = func(k [32]byte) (string, bool) {
		p, ok := book.byKey(k)
		return p.Name, ok
	}
	cfg.TargetsOf = book.offers
	if len(book.peers.All()) == 0 && !cfg.Codes {
		u.say(`nobody is known yet: "adit peers add NAME KEY" adds a peer, this machine's key is that of "adit key"`)
	}
	u.onCode = func(code string) string { return invitation(c, "connect", code) }
	l, err := peer.Listen(cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	u.run.offer(cfg.Targets)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop(net.ErrClosed)
	wg.Go(func() { book.follow(sctx) })
	for {
		s, err := l.Accept(ctx)
		if err != nil {
			return err
		}
		name, how := s.Name(), "key"
		if name == "" {
			how = "code"
		}
		u.run.add(s, how)
		if name == "" && cfg.Keep {
			name = book.freeName(c.String("save"))
			u.save(s, name, nil, "")
		}
		unhook := recoverOnHangup(s)
		wg.Go(func() {
			defer unhook()
			serveOne(sctx, u, c, s, book, forwards, name)
		})
	}
}

// serveOne serves one session of several until it ends. It is told of by name, which the peer need not be known
// by: then the rules are those for others.
func serveOne(ctx context.Context, u *ui, c *cli.Context, s *peer.Session, book *rulebook, forwards *peerForwards, name string) {
	key, _ := s.Key()
	gate, release := book.gate(s.Name(), key, s.Dismiss)
	defer release()
	offer := tunnel.Offer{Gate: gate}
	if s.Name() != "" {
		remotes, leave, err := forwards.enter(s.Name(), s)
		if err != nil {
			u.say("%s: %v", name, err)
		} else {
			offer.Remotes = remotes
			defer leave()
		}
	}
	if name == "" {
		name = "the peer by code"
	}
	if c.Bool("allow-bench") {
		offer.Bench = bench.NewServer(func() bench.Counters { return countersOf(s) }).Serve
	}
	options := tunnel.Options{Logger: u.logger(), Flows: u.flows, OnStream: func(e tunnel.StreamEvent) {
		u.event(event.Event{Name: event.Stream, Peer: name, State: e.State, Target: e.Target, Message: e.Reason})
	}}
	ctx, stop := context.WithCancelCause(ctx)
	served := make(chan error, 1) // the one result of Serve
	go func() { served <- tunnel.Serve(ctx, tunnel.Over(s.Streams()), offer, options) }()
	_ = wait(ctx, s) // it has been told as an event
	_ = s.Close()
	stop(net.ErrClosed)
	<-served
}
