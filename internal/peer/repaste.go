package peer

import (
	"context"
	"errors"
	"time"

	"adit/internal/event"
	"adit/internal/handshake"
	"adit/internal/link"
	"adit/signal"
)

const (
	// repasteAfter is how long a session whose two sides met by pasted lines is interrupted before people are
	// asked for others: a move of one side heals before.
	repasteAfter = 8 * time.Second

	// repasteGather is how long addresses are looked for before a line is shown.
	repasteGather = 3 * time.Second

	// repasteProbe is how long addresses in the peer's line are asked directly, should this side's line not get there.
	repasteProbe  = 10 * time.Second
	repasteProbes = 8

	mostPasted = 4 // lines that wait to be looked at; more are dropped
	badPasted  = 20
)

// A repaste brings a session back by lines that people carry, where there is no rendezvous that could: both
// sides have moved at once. Each shows its half of a generation, sealed like a letter, and takes the other's,
// whatever its number: the two need not have begun at the same time. The checks of such a generation go on for as
// long as a line is good for. The roamer owns it.
type repaste struct {
	seals *letters
	ch    signal.Channel

	at   time.Time // when to ask; zero: not, or asked already
	stop context.CancelFunc
}

// newRepaste returns nil if nobody can be asked.
func newRepaste(cfg Config, keys *handshake.Result, controlling bool) *repaste {
	if !cfg.Repaste {
		return nil
	}
	p := cfg.Paste
	p.Expect = signal.KindHalf
	p.OnToken = func(t string) {
		cfg.Events.Emit(event.Event{Name: event.Token, Token: t, State: "again"})
	}
	return &repaste{seals: newLetters(nil, keys, controlling), ch: signal.NewPaste(p)}
}

// asking reports whether people are asked for a line now.
func (p *repaste) asking() bool { return p != nil && p.stop != nil }

// interrupted begins the wait before people are asked.
func (p *repaste) interrupted(now time.Time) {
	if p != nil && p.stop == nil && p.at.IsZero() {
		p.at = now.Add(repasteAfter)
	}
}

// up ends the asking.
func (p *repaste) up() {
	if p == nil {
		return
	}
	p.at = time.Time{}
	if p.stop != nil {
		p.stop()
		p.stop = nil
	}
}

func (p *repaste) close() {
	if p != nil {
		p.up()
		p.ch.Close()
	}
}

// pasteStep asks when it is time, and shows this side's line when it is complete.
func (r *roamer) pasteStep(s link.State) {
	p := r.paste
	if p == nil || s == link.Up {
		return
	}
	if !p.at.IsZero() && !r.now.Before(p.at) {
		p.at = time.Time{}
		var ctx context.Context
		ctx, p.stop = context.WithCancel(r.e.ctx)
		r.e.wg.Go(func() { p.read(ctx, r.e) })
		r.begin(r.number + 1)
	}
	if g := r.gen; g != nil && g.line && !g.shown && (g.complete.Load() || r.now.Sub(g.began) >= repasteGather) {
		g.shown = true
		m := signal.Message{Kind: signal.KindHalf, Expires: time.Now().Add(meetFor), Body: p.seals.seal(g.offer())}
		r.e.wg.Go(func() {
			if err := p.ch.Send(g.ctx, m); err != nil && g.ctx.Err() == nil {
				r.e.cfg.Logger.Info("no line for the peer", "err", err)
			}
		})
	}
}

// read takes lines until ctx ends, or the input.
func (p *repaste) read(ctx context.Context, e *endpoint) {
	for bad := 0; bad < badPasted; {
		m, err := p.ch.Receive(ctx)
		var token *signal.TokenError
		switch {
		case ctx.Err() != nil:
			return
		case errors.As(err, &token):
			bad++ // an input that has ended says so again and again
			e.cfg.Logger.Info("no line of the peer", "err", err)
			continue
		case err != nil:
			e.cfg.Logger.Info("no line of the peer", "err", err)
			return
		}
		o, ok := p.seals.open(m.Body)
		if !ok || o.kind != controlOffer {
			bad++
			if f := e.cfg.Paste.OnError; f != nil {
				f(&signal.TokenError{Problem: "this line is not for this session, or older than one that was pasted before", Hint: "paste what the other side of this very session shows now"})
			}
			continue
		}
		e.tell(func(r *roamer) {
			if len(r.pasted) < mostPasted {
				r.pasted = append(r.pasted, o)
			}
		})
	}
}

// heedPasted takes in the peer's half from a line. Its number may be any: the larger one counts from here on.
func (r *roamer) heedPasted(o offer) {
	r.number = max(r.number, o.number)
	if r.was == link.Up {
		return
	}
	if r.gen == nil || !r.gen.line || !r.gen.answered.IsZero() && r.gen.peerSeed != o.d.Seed {
		r.begin(r.number) // the peer's line is a new one, and so is this side's
	}
	r.take(o)
	for i, c := range o.d.Candidates {
		if i == repasteProbes {
			break
		}
		r.e.wg.Go(func() {
			ctx, cancel := context.WithTimeout(r.e.ctx, repasteProbe)
			defer cancel()
			// Should the peer be open to all, its line alone is enough.
			if _, err := r.e.link.Probe(ctx, c.Addr); err == nil {
				r.e.tell(func(r *roamer) { r.answers = c.Addr })
			}
		})
	}
}
