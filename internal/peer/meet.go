package peer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"adit/internal/event"
	"adit/internal/handshake"
	"adit/signal"
)

// meet runs whichever meeting cfg.Signal calls for.
func meet(ctx context.Context, cfg Config) (*Session, error) {
	switch {
	case cfg.Peer != [32]byte{}:
		return dialByKey(ctx, cfg)
	case cfg.Signal == "" || cfg.Signal == "paste":
		cfg.Paste.OnToken = func(t string) { cfg.Events.Emit(event.Event{Name: event.Token, Token: t}) }
		cfg.Paste.Expect = signal.KindAnswer
		if cfg.Role == Connecter {
			cfg.Paste.Expect = signal.KindOffer
		}
		return byLine(ctx, cfg, signal.NewPaste(cfg.Paste), true)
	case strings.HasPrefix(cfg.Signal, "exec:"):
		ch, err := signal.NewExec(strings.TrimPrefix(cfg.Signal, "exec:"))
		if err != nil {
			return nil, failf(ClassSignal, "check the command after exec:", err, "%v", err)
		}
		return byLine(ctx, cfg, ch, false)
	case cfg.Role == Exposer:
		return createByCode(ctx, cfg)
	default:
		return joinByCode(ctx, cfg)
	}
}

// byLine meets over a channel that carries one message each way: the exposer's offer, the
// connecter's answer. Nothing can follow, so both wait until they know all their candidates.
func byLine(ctx context.Context, cfg Config, ch signal.Channel, patient bool) (_ *Session, err error) {
	end, err := open(cfg, cfg.STUN)
	if err != nil {
		ch.Close()
		return nil, err
	}
	defer func() {
		if err != nil {
			ch.Close()
			end.Close()
			return
		}
		// A command may take its time to end; the session need not wait for it.
		end.wg.Go(func() { ch.Close() })
	}()
	relayed := end.allocate(nil) // on those of the settings
	if cfg.Role == Exposer {
		return offerLine(ctx, cfg, ch, end, relayed)
	}
	return answerLine(ctx, cfg, ch, end, relayed, patient)
}

func offerLine(ctx context.Context, cfg Config, ch signal.Channel, end *endpoint, relayed <-chan struct{}) (*Session, error) {
	if err := end.settleAll(ctx, relayed); err != nil {
		return nil, err
	}
	end.tellUnseen()
	noise, err := handshake.NewInitiator(handshake.Config{Mode: handshake.ModePaste})
	if err != nil {
		return nil, err
	}
	offer, err := noise.Offer(marshal(end.description(nil)))
	if err != nil {
		return nil, err
	}
	if err := send(ctx, ch, signal.KindOffer, offer); err != nil {
		return nil, err
	}
	m, err := receive(ctx, ch, signal.KindAnswer)
	if err != nil {
		return nil, err
	}
	payload, keys, err := noise.Finish(m.Body)
	if err != nil {
		return nil, failf(ClassAuth, "paste the answer that belongs to this very offer, or start again on both sides", err, "this answer is not for this offer")
	}
	remote, err := signal.ParseDescription(payload)
	if err != nil {
		return nil, failf(ClassSignal, "use the same version of adit on both sides", err, "the peer's answer makes no sense: %v", err)
	}
	if err := end.check(remote, keys, true, false); err != nil {
		return nil, err
	}
	p, err := end.connect(ctx, checkLimit(cfg))
	if err != nil {
		return nil, err
	}
	words, _ := keys.Words()
	// The commitment in the offer is opened only now, over the path: a man in the middle had to
	// choose his keys without knowing it, so the words give him away but for one guess in 2^44.
	if err := end.link.SendControl(append([]byte{controlReveal}, keys.Reveal()...)); err != nil {
		return nil, err
	}
	s := start(end, p, remote, cfg, nil, keys)
	cfg.Events.Emit(event.Event{Name: event.Words, Words: words})
	return s, nil
}

func answerLine(ctx context.Context, cfg Config, ch signal.Channel, end *endpoint, relayed <-chan struct{}, patient bool) (*Session, error) {
	m, err := receive(ctx, ch, signal.KindOffer)
	if err != nil {
		return nil, err
	}
	noise, err := handshake.NewResponder(handshake.Config{Mode: handshake.ModePaste})
	if err != nil {
		return nil, err
	}
	payload, err := noise.Open(m.Body)
	if err != nil {
		return nil, failf(ClassSignal, `run "adit expose" on the other side again and paste what it prints`, err, "this offer makes no sense: %v", err)
	}
	remote, err := signal.ParseDescription(payload)
	if err != nil {
		return nil, failf(ClassSignal, "use the same version of adit on both sides", err, "the peer's offer makes no sense: %v", err)
	}
	if err := end.settleAll(ctx, relayed); err != nil {
		return nil, err
	}
	end.tellUnseen()
	answer, keys, err := noise.Answer(marshal(end.description(nil)))
	if err != nil {
		return nil, err
	}
	if err := end.check(remote, keys, false, patient); err != nil {
		return nil, err
	}
	if err := send(ctx, ch, signal.KindAnswer, answer); err != nil {
		return nil, err
	}
	limit := checkLimit(cfg)
	if patient {
		limit = until(m.Expires, cfg) // a person still has to carry the answer over
	}
	p, err := end.connect(ctx, limit)
	if err != nil {
		return nil, err
	}
	s := start(end, p, remote, cfg, nil, keys)
	if err := s.awaitReveal(ctx, keys); err != nil {
		s.Close()
		return nil, err
	}
	words, _ := keys.Words()
	cfg.Events.Emit(event.Event{Name: event.Words, Words: words})
	return s, nil
}

// awaitReveal waits until the peer has opened its commitment, which the words depend on. A session that ended before
// that is an error, however it ended.
func (s *Session) awaitReveal(ctx context.Context, keys *handshake.Result) error {
	var reveal []byte
	select {
	case reveal = <-s.end.revealed:
	case <-s.link.Done():
		select {
		case reveal = <-s.end.revealed: // it came first
		default:
			if err := ended(s.link.Err()); err != nil {
				return err
			}
			return failf(ClassGone, "start again on both sides", s.link.Err(), "the other side left before it proved its words")
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := keys.Verify(reveal); err != nil {
		return failf(ClassAuth, "somebody may sit between the two: start again over another channel", err, "the peer broke its commitment")
	}
	return nil
}

// send hands m to the channel with the time until which it may be answered.
func send(ctx context.Context, ch signal.Channel, k signal.Kind, body []byte) error {
	err := ch.Send(ctx, signal.Message{Kind: k, Expires: time.Now().Add(meetFor), Body: body})
	return signalError(ctx, err)
}

// receive returns the next message, which must be of kind k. Expires is the peer's clock and nothing is concluded from
// it here: a room lives by its server's clock, and who reads lines has looked at theirs.
func receive(ctx context.Context, ch signal.Channel, k signal.Kind) (signal.Message, error) {
	m, err := ch.Receive(ctx)
	switch {
	case err != nil:
		return m, signalError(ctx, err)
	case m.Kind == signal.KindAbort:
		return m, aborted(m)
	case m.Kind != k:
		return m, failf(ClassSignal, "start again on both sides; one exposes, the other connects", nil, "the peer sent a message that is not due here")
	}
	return m, nil
}

// signalError gives an error of a channel its class and, where the cause is known, its advice.
func signalError(ctx context.Context, err error) error {
	var token *signal.TokenError
	var fault *signal.Fault
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &fault):
		return failf(ClassSignal, fault.Hint, err, "%s", fault.Problem)
	case errors.As(err, &token):
		return failf(ClassSignal, token.Hint, err, "%s", token.Problem)
	case errors.Is(err, signal.ErrTooLong):
		return failf(ClassSignal, "expose fewer targets at once, or meet at a rendezvous", err, "the line would be too long to paste")
	case errors.Is(err, signal.ErrNoRoom):
		return failf(ClassSignal, "check the number in front, or ask the other side for a new code: one lives for ten minutes", err, "there is no such code at the rendezvous")
	case errors.Is(err, signal.ErrRoomTaken):
		return failf(ClassAuth, "ask the other side for a new code; if it was not you who used this one, somebody guessed", err, "this code has been used")
	case errors.Is(err, signal.ErrBusy):
		wait := max(signal.RetryAfter(err), time.Second)
		return failf(ClassSignal, fmt.Sprintf("wait %v and try again", wait), err, "the rendezvous refuses this address for now: %v", err)
	case errors.Is(err, signal.ErrAccess):
		return failf(ClassSignal, "ask its operator for a token, and set signal_token in the config file", err, "the rendezvous is not open to everybody")
	case errors.Is(err, signal.ErrPeerGone):
		return failf(ClassSignal, "start again on both sides", err, "the other side left the rendezvous")
	}
	return failf(ClassSignal, "check --signal and the network", err, "signalling failed: %v", err)
}

func marshal(d signal.Description) []byte {
	return d.Append(nil)
}

// checkLimit bounds connectivity checks where no timeout for the whole bounds them already.
func checkLimit(cfg Config) time.Duration {
	if cfg.Timeout > 0 {
		return 0
	}
	return checkFor
}

func until(expires time.Time, cfg Config) time.Duration {
	if cfg.Timeout > 0 {
		return 0
	}
	if expires.IsZero() {
		return meetFor
	}
	return max(time.Until(expires), 0) + checkFor
}
