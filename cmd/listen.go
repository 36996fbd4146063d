package cmd

import (
	"context"
	"net"
	"sync"

	"adit/internal/bench"
	"adit/internal/config"
	"adit/internal/event"
	"adit/internal/fail"
	"adit/internal/forwards"
	"adit/internal/identity"
	"adit/internal/peer"
	"adit/internal/plan"
	"adit/internal/rulebook"
	"adit/tunnel"
)

// listen serves known peers until ctx ends.
func listen(ctx context.Context, u *ui, o *exposeOptions, cfg peer.Config, book *rulebook.Book) error {
	if len(cfg.Signals) == 0 {
		return fail.Usagef("name one with --signal URL", "peers are met by key at a rendezvous, and none is configured")
	}
	if err := ownKey(&cfg); err != nil {
		return err
	}
	sctx, stop := context.WithCancelCause(ctx)
	defer stop(net.ErrClosed)
	var plans map[string]plan.Forwarding
	read := func(file config.File, known *identity.Peers) error {
		t, err := o.texts(file)
		if err == nil {
			plans, err = plan.ByPeer(t, known)
		}
		return err
	}
	nobody := false
	if err := book.See(func(file config.File, known *identity.Peers) error {
		nobody = len(known.All()) == 0
		return read(file, known)
	}); err != nil {
		return err
	}
	opened, err := forwards.OpenPeers(sctx, u.told(), plans)
	if err != nil {
		return err
	}
	defer opened.Close() // after the sessions' end
	defer u.onReload(func() error {
		if err := book.Reload(read); err != nil {
			return err
		}
		return opened.Change(plans)
	})()
	cfg.Codes = o.code
	cfg.Keep = o.save != ""
	cfg.Admit = func(k [32]byte) (string, bool) {
		p, ok := book.ByKey(k)
		return p.Name, ok
	}
	cfg.TargetsOf = book.Offers
	if nobody && !cfg.Codes {
		u.say(`nobody is known yet: "adit peers add NAME KEY" adds a peer, this machine's key is that of "adit key"`)
	}
	u.onCode = func(code string) string { return o.invitation(&o.given, "connect", code, o.save != "") }
	l, err := peer.Listen(cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	u.run.offer(cfg.Targets)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop(net.ErrClosed)
	wg.Go(func() { book.Follow(sctx) })
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
			name = book.FreeName(o.save)
			u.save(s, name, nil, "")
		}
		unhook := recoverOnHangup(s)
		wg.Go(func() {
			defer unhook()
			serveOne(sctx, u, o, s, book, opened, name)
		})
	}
}

// serveOne serves one session of several until it ends. It is told of by name, which the peer need not be known
// by: then the rules are those for others.
func serveOne(ctx context.Context, u *ui, o *exposeOptions, s *peer.Session, book *rulebook.Book, opened *forwards.Peers, name string) {
	key, _ := s.Key()
	gate, release := book.Gate(s.Name(), key, s.Dismiss)
	defer release()
	offer := tunnel.Offer{Gate: gate}
	if s.Name() != "" {
		remotes, leave, err := opened.Enter(s.Name(), s)
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
	if o.allowBench {
		offer.Bench = bench.NewServer(func() bench.Counters { return countersOf(s) }).Serve
	}
	options := tunnel.Options{Logger: u.logger(), Flows: u.flows, OnStream: func(e tunnel.StreamEvent) {
		u.event(event.Event{Name: event.Stream, Peer: name, State: e.State, Target: e.Target, Message: e.Reason})
	}}
	ctx, stop := context.WithCancelCause(ctx)
	served := make(chan error, 1) // the one result of Serve
	go func() { served <- tunnel.Serve(ctx, tunnel.Over(s.Streams()), offer, options) }()
	_ = forwards.Wait(ctx, s) // it has been told as an event
	_ = s.Close()
	stop(net.ErrClosed)
	<-served
}
