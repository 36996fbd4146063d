package cmd

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"

	"adit/internal/event"
	"adit/internal/fail"
	"adit/internal/forwards"
	"adit/internal/peer"
	"adit/signal"
	"adit/tunnel"
)

// meet brings the peer within reach. The session ends with what is returned, which may be called again.
// data says that standard input and output carry data.
func meet(ctx context.Context, u *ui, cfg peer.Config, data bool) (*peer.Session, func(), error) {
	release, err := pasteThrough(u, &cfg, data)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	s, err := peer.Dial(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	if err := verified(ctx, u, s, cfg); err != nil {
		_ = s.Close() // nothing was forwarded
		return nil, nil, err
	}
	how := met(cfg.Signal)
	if cfg.PeerName != "" {
		how = "key"
	}
	u.run.add(s, how)
	u.measureWith(sessionMeter(s.Stats))
	unhook := recoverOnHangup(s)
	return s, sync.OnceFunc(func() {
		unhook()
		_ = s.Close() // what there is to tell, Wait tells
	}), nil
}

// lentOptions counts the streams of other processes; what becomes of them is those processes' to tell.
func (u *ui) lentOptions() tunnel.Options {
	return tunnel.Options{
		Logger: u.logger(),
		Flows:  u.flows,
		OnStream: func(e tunnel.StreamEvent) {
			u.run.event(event.Event{Name: event.Stream, State: e.State, Target: e.Target, Message: e.Reason})
		},
	}
}

// failureBelow gives the errors of the layers below their exit codes; nil for one that has none.
func failureBelow(err error) *fail.Failure {
	if f := failureOfIdentity(err); f != nil {
		return f
	}
	var met *peer.Error
	var refused *tunnel.RefusedError
	var local *tunnel.LocalError
	var token *signal.TokenError
	switch {
	case errors.As(err, &local):
		return &fail.Failure{Code: fail.Other, Message: err.Error(), Hint: "see what writes to adit, and what reads from it"}
	case errors.As(err, &refused):
		f := &fail.Failure{Code: fail.Refused, Message: err.Error()}
		switch refused.Code {
		case tunnel.CodeRefused:
			f.Hint = `have the other side expose it: "adit expose TARGET…"`
		case tunnel.CodeUsage:
			f.Hint = "use the same version of adit on both sides"
		default:
			f.Hint = "see whether the service runs over there"
		}
		return f
	case errors.As(err, &met):
		f := &fail.Failure{Code: int(met.Class), Message: met.Message, Hint: met.Hint}
		if f.Hint == "" {
			f.Hint = "run it again with -v to see more"
		}
		return f
	case errors.As(err, &token):
		return &fail.Failure{Code: fail.Signal, Message: token.Problem, Hint: token.Hint}
	case errors.Is(err, forwards.ErrNoAnswer):
		return &fail.Failure{Code: fail.Gone, Message: err.Error(), Hint: "the path may be interrupted; read the files again when it is up, or let the next session have it"}
	case errors.Is(err, tunnel.ErrListen):
		return &fail.Failure{Code: fail.Listen, Message: err.Error(), Hint: "stop what else uses the port, or take another; port 0 takes any that is free"}
	case errors.Is(err, tunnel.ErrPipe), errors.Is(err, net.ErrClosed):
		return &fail.Failure{Code: fail.Gone, Message: err.Error(), Hint: "see what the other side says"}
	}
	return nil
}

// verified waits until a person has said that the four words are the same on both screens, where there are words and a
// person: nothing is forwarded before. The end of the session ends the wait.
func verified(ctx context.Context, u *ui, s *peer.Session, cfg peer.Config) error {
	in, _ := cfg.Paste.In.(*os.File)
	paste := cfg.Signal == "paste"
	person := paste && cfg.Paste.Interactive
	if strings.HasPrefix(cfg.Signal, "exec:") {
		in, person = os.Stdin, isTerminal(os.Stdin) && !u.dataOut
	}
	switch {
	case u.verify == "no", u.json, u.log != nil, cfg.PeerName != "", !paste && in == nil:
		return nil
	case !person && u.verify == "ask":
		return fail.Usagef("leave --verify out, or run it in a terminal", "--verify ask needs a terminal to ask at")
	case !person:
		return nil
	}
	ask, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() { stop(cmp.Or(forwards.Wait(ask, s), errLeft)) }() // ends with ask, or the session
	u.prompt("Are the four words the same on both screens? [y/n]")
	for {
		answer, err := readLine(ask, in)
		if err != nil {
			return err
		}
		switch strings.ToLower(strings.TrimSpace(answer)) {
		case "y", "yes":
			return nil
		case "n", "no":
			return &fail.Failure{Code: fail.Auth, Message: "the four words differ: somebody may sit between the two", Hint: "start again on both sides, and swap the lines over another channel"}
		}
		u.prompt("Compare all four words with the other person. The same? [y/n]")
	}
}

var errLeft error = &fail.Failure{Code: fail.Gone, Message: "the other side ended the session before the words were compared", Hint: "ask whether the words differed there"}
