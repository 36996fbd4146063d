package cmd

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"adit/internal/config"
	"adit/internal/event"
	"adit/internal/fail"
	"adit/internal/forwards"
	"adit/internal/identity"
	"adit/internal/peer"
	"adit/internal/suggest"
)

const (
	againLeast = 500 * time.Millisecond // before a peer is dialled again,
	againMost  = 15 * time.Second       // and at most; in between it doubles
)

// saveOption is that of the commands that may end a code meeting with a peer that they know.
func saveOption(to *string) option {
	return option{name: "save", to: to, usage: "after a meeting by code keep the peer as `NAME`; the other side has to say --save too"}
}

func checkSave(name string, bad *complaints) {
	if name == "" {
		return
	}
	if err := identity.CheckName(name); err != nil {
		bad.about("save", "for example --save home", "%v", err)
	}
}

// ownKey puts this machine's key into cfg. It is made on first use.
func ownKey(cfg *peer.Config) error {
	dir, err := identity.StateDir()
	if err != nil {
		return err
	}
	k, err := identity.LoadOrCreate(dir)
	cfg.Key = k
	return err
}

// byName makes cfg dial the known peer of that name, if it is one. A word that cannot be a code is a name, known or not.
// save is what --save says.
func byName(name, save string, file config.File, cfg *peer.Config) (bool, error) {
	if identity.CheckName(name) != nil {
		return false, nil
	}
	peers, err := file.Known()
	if err != nil {
		return false, err
	}
	p, ok := peers.ByName(name)
	switch {
	case !ok && strings.HasPrefix(name, tokenPrefix):
		return false, nil
	case !ok:
		hint := `"adit peers list" shows who is known; "adit peers add NAME KEY" adds one, and so does --save NAME after a meeting by code`
		if n := suggest.Nearest(name, peers.Names()); n != "" {
			hint = "did you mean " + n + "?"
		}
		return false, fail.Usagef(hint, "there is no peer %q", name)
	case save != "":
		return false, fail.Usagef("leave --save out", "%s is known already", name)
	case len(p.Signal) > 0:
		cfg.Signals = p.Signal
	}
	if len(cfg.Signals) == 0 {
		return false, fail.Usagef("name one with --signal URL, or for good: adit peers add "+name+" KEY --signal URL", "a peer is met by name at a rendezvous, and none is configured")
	}
	cfg.Signal = cfg.Signals[0]
	cfg.Peer, cfg.PeerName = p.Key, p.Name
	return true, ownKey(cfg)
}

// saving makes cfg exchange keys if --save names the peer.
func saving(name string, file config.File, cfg *peer.Config) error {
	if name == "" {
		return nil
	}
	if !byCode(cfg.Signal) {
		return fail.Usagef("give --signal URL as the other side does", "keys are exchanged in meetings by code, and no rendezvous is configured")
	}
	peers, err := file.Known()
	if err != nil {
		return err
	}
	if _, taken := peers.ByName(name); taken {
		return fail.Usagef("take another name, or remove it first: adit peers remove "+name, "there is a peer %q already", name)
	}
	cfg.Keep = true
	return ownKey(cfg)
}

// save stores the key that the peer has given in a code meeting, by this name, and says what to run from then on. The
// session stays whatever comes of it.
func (u *ui) save(s *peer.Session, name string, urls []string, next string) {
	if name == "" {
		return
	}
	k, kept := s.Key()
	if !kept {
		u.say("not saved: the other side did not give its key; have it say --save too")
		return
	}
	path, err := identity.PeersFile()
	if err == nil {
		_, err = identity.Add(path, identity.Peer{Name: name, Key: k, Signal: urls})
	}
	if err != nil {
		u.say("not saved: %v", err)
		return
	}
	u.event(event.Event{Name: event.Saved, Peer: name, Key: identity.PublicKey(k).String()})
	if next != "" {
		u.say("no code is needed from now on: %s", next)
	}
}

// A redial is how a known peer is dialled again and again. The zero value begins.
type redial struct{ delay time.Duration }

// wait waits for longer each time. It fails when ctx ends.
func (r *redial) wait(ctx context.Context) error {
	r.delay = min(max(2*r.delay, againLeast), againMost)
	return pause(ctx, r.delay*3/4+rand.N(r.delay/2))
}

// meetKnown is meet for the first session with a known peer. If there is no path now, or the rendezvous is lost on the
// way, it tries again, until cfg.Timeout, of all tries together, has passed; for ever if that is 0.
func meetKnown(ctx context.Context, u *ui, cfg peer.Config) (*peer.Session, func(), error) {
	began, whole := time.Now(), cfg.Timeout
	var last *peer.Error // of a try before this one
	for again := (redial{}); ; {
		s, end, err := meet(ctx, u, cfg, false)
		var e *peer.Error
		if err == nil || ctx.Err() != nil || !errors.As(err, &e) {
			return s, end, err
		}
		switch e.Class {
		case peer.ClassNoPath, peer.ClassSignal, peer.ClassGone:
			last = e
		case peer.ClassTimeout:
			if last != nil {
				err = timeOver(last)
			}
			return nil, nil, err
		default:
			return nil, nil, err
		}
		u.say("%s; trying again", e.Message)
		limit, cancel := ctx, context.CancelFunc(func() {})
		if whole > 0 {
			limit, cancel = context.WithDeadline(ctx, began.Add(whole))
		}
		err = again.wait(limit)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil, nil, context.Cause(ctx)
		case err != nil:
			return nil, nil, timeOver(last)
		case whole > 0:
			cfg.Timeout = max(whole-time.Since(began), 1) // 0 would be no limit
		}
	}
}

// timeOver is for the end of --timeout after tries that came to nothing.
func timeOver(last *peer.Error) error {
	return &fail.Failure{Code: fail.Timeout, Message: "the time for a meeting is over; the last try said: " + last.Message, Hint: last.Hint}
}

// stay keeps a session with a known peer: whenever it ends, over is called, and begin with the next. Streams end
// with their session, and what wants new ones waits. It returns when ctx ends, or with what begin says.
func stay(ctx context.Context, u *ui, cfg peer.Config, s *peer.Session, end, over func(), begin func(*peer.Session) error) error {
	var again redial
	for {
		began := time.Now()
		err := forwards.Wait(ctx, s)
		end()
		over()
		if ctx.Err() != nil {
			return err
		}
		if f := failureOf(err); f != nil && !errors.Is(err, peer.ErrUnknown) { // of which an event told
			u.say("%s", f.Message)
		}
		if time.Since(began) > time.Minute {
			again = redial{}
		}
		cfg.Timeout = 0 // it was for the first meeting
		for {
			if err := again.wait(ctx); err != nil {
				return err
			}
			var next func()
			s, next, err = meet(ctx, u, cfg, false)
			if err == nil {
				end = sync.OnceFunc(next)
				break
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			var met *peer.Error
			if !errors.As(err, &met) {
				return err
			}
			u.say("%s; trying again", met.Message)
		}
		if err := begin(s); err != nil {
			end()
			return err
		}
	}
}
