package peer

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	rand2 "math/rand/v2"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"adit/internal/event"
	"adit/internal/handshake"
	"adit/internal/punch"
	"adit/signal"
)

const (
	// offerWait is how long a joiner's offer waits for candidates before it travels with what is there.
	offerWait = 150 * time.Millisecond

	roomEnds  = 5 * time.Second // so long before its time is over a room that is gone has ended by itself
	roomAgain = 2 * time.Second // the longest pause before another is made in the place of one that was forgotten

	sidBytes  = 16 // the room creator's session id in front of its PAKE share
	pakeBytes = handshake.PAKEMessageLen
)

// createByCode opens a room, shows the code, and answers the one joiner.
//
//	creator                         room                          joiner
//	   | KindPAKE  sid, Ya           |                               |
//	   |---------------------------->|<------------------------ join |
//	   |                             | KindPAKE -------------------->|
//	   |<-------------------------------- KindOffer  Yb, Noise msg 1 |
//	   | KindAnswer  Noise msg 2 ----------------------------------->|
//	   |<------------------------ KindCandidates (sealed) ---------->|
//
// The code's time ends the wait for the joiner, and no checks that have begun by then.
func createByCode(parent context.Context, cfg Config) (_ *Session, err error) {
	ctx, cancel := context.WithTimeoutCause(parent, meetFor, failf(ClassSignal, "run the command again for a new one", nil, "the code has expired: nobody used it for ten minutes"))
	defer cancel()
	client := cfg.client(cfg.Signal)
	stun, err := stunServers(ctx, cfg, client)
	if err != nil {
		return nil, err
	}
	if cfg.base != nil && cfg.STUN == nil {
		cfg.base.firstSTUN(stun)
	}
	end, err := open(cfg, stun)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			end.Close()
		}
	}()
	room, pake, code, m, err := awaitJoiner(ctx, cfg, client)
	if err != nil {
		return nil, err
	}
	defer room.Close()
	ctx = parent
	end.allocateFrom(room)
	remote, noise, err := openOffer(cfg, pake, code, m.Body)
	if err != nil {
		// One run of the PAKE is one guess: whoever it was, this code is spent.
		abort(ctx, room, abortWrongCode)
		return nil, failf(ClassAuth, "run the command again for a new code; if the other side typed it right, somebody else guessed", err, "a peer came with a wrong code: the code is burnt")
	}
	end.settleFor(ctx, offerWait) // it has had all the time since the code was shown
	late := newLate()
	answer, keys, err := noise.Answer(marshal(end.description(late.add)))
	if err != nil {
		return nil, err
	}
	if err := end.check(remote, keys, false, false); err != nil {
		return nil, err
	}
	if err := send(ctx, room, signal.KindAnswer, answer); err != nil {
		return nil, err
	}
	return finish(ctx, cfg, end, client, room, remote, keys, false, late)
}

// awaitJoiner shows a code and waits for the offer of the one joiner. A rendezvous that was started again may have
// forgotten the room: there is another code then, and a person is told. The caller closes the room.
func awaitJoiner(ctx context.Context, cfg Config, client *signal.Client) (room *signal.Room, pake *handshake.PAKE, code handshake.Code, offer signal.Message, err error) {
	said := event.Event{Name: event.Code}
	for {
		room, err = client.Create(ctx)
		if err != nil {
			return nil, nil, code, offer, signalError(ctx, err)
		}
		code = handshake.NewCode(room.Nameplate())
		var sid [sidBytes]byte
		rand.Read(sid[:])
		pake, err = handshake.NewPAKE(code, sid[:], true)
		if err == nil {
			if err = send(ctx, room, signal.KindPAKE, append(sid[:], pake.Message()...)); err == nil {
				said.Code = code.String()
				cfg.Events.Emit(said)
				offer, err = receive(ctx, room, signal.KindOffer)
			}
		}
		if err == nil {
			return room, pake, code, offer, nil
		}
		forgotten := errors.Is(err, signal.ErrNoRoom) && ctx.Err() == nil && time.Until(room.Expires()) > roomEnds
		room.Close()
		if !forgotten {
			return nil, nil, code, offer, err
		}
		said.State, said.Message = "again", "the rendezvous was started again and has forgotten the code: give the other side this one"
		select { // whatever forgets rooms does not get another one at once
		case <-time.After(rand2.N(roomAgain)):
		case <-ctx.Done():
			return nil, nil, code, offer, context.Cause(ctx)
		}
	}
}

// byCode returns what both sides of a code's handshake agree on. With Keep the static key is this machine's.
func (cfg Config) byCode(psk []byte, code handshake.Code) handshake.Config {
	c := handshake.Config{Mode: handshake.ModeCode, PSK: psk, Context: []byte(code.Nameplate), Keep: cfg.Keep}
	if cfg.Keep {
		c.Static = handshake.KeyPairFrom(cfg.Key)
	}
	return c
}

// openOffer reads a joiner's offer; an error means that the joiner does not know the words.
func openOffer(cfg Config, pake *handshake.PAKE, code handshake.Code, body []byte) (signal.Description, *handshake.Responder, error) {
	var d signal.Description
	if len(body) < pakeBytes {
		return d, nil, handshake.ErrAuth
	}
	psk, err := pake.Finish(body[:pakeBytes])
	if err != nil {
		return d, nil, err
	}
	noise, err := handshake.NewResponder(cfg.byCode(psk[:], code))
	if err != nil {
		return d, nil, err
	}
	payload, err := noise.Open(body[pakeBytes:])
	if err != nil {
		return d, nil, err
	}
	d, err = signal.ParseDescription(payload)
	return d, noise, err
}

// joinByCode joins the room that the code names and makes the offer.
func joinByCode(ctx context.Context, cfg Config) (_ *Session, err error) {
	code, err := handshake.ParseCode(cfg.Code)
	if err != nil {
		return nil, failf(ClassSignal, "a code looks like 7341-orbit-copper-ladder", err, "%v", err)
	}
	client := cfg.client(cfg.Signal)

	// The list of STUN servers and the room are asked for at once: each costs a round trip.
	var room *signal.Room
	var joinErr error
	var wg sync.WaitGroup
	wg.Go(func() { room, joinErr = client.Join(ctx, code.Nameplate) })
	stun, err := stunServers(ctx, cfg, client)
	wg.Wait()
	if joinErr != nil {
		return nil, signalError(ctx, joinErr)
	}
	defer room.Close()
	if err != nil {
		return nil, err
	}
	end, err := open(cfg, stun)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			end.Close()
		}
	}()
	end.allocateFrom(room)
	m, err := receive(ctx, room, signal.KindPAKE)
	if err != nil {
		return nil, err
	}
	if len(m.Body) != sidBytes+pakeBytes {
		return nil, failf(ClassSignal, "use the same version of adit on both sides", nil, "the room at the rendezvous is not one of adit's")
	}
	pake, err := handshake.NewPAKE(code, m.Body[:sidBytes], false)
	if err != nil {
		return nil, err
	}
	psk, err := pake.Finish(m.Body[sidBytes:])
	if err != nil {
		return nil, err
	}
	noise, err := handshake.NewInitiator(cfg.byCode(psk[:], code))
	if err != nil {
		return nil, err
	}

	// A server-reflexive candidate usually takes one round trip: with it in the offer the creator's
	// checks open its NAT at once. What is found later waits here until the keys to seal it are known.
	end.settleFor(ctx, offerWait)
	late := newLate()
	offer, err := noise.Offer(marshal(end.description(late.add)))
	if err != nil {
		return nil, err
	}
	if err := send(ctx, room, signal.KindOffer, append(pake.Message(), offer...)); err != nil {
		return nil, err
	}
	m, err = receive(ctx, room, signal.KindAnswer)
	if err != nil {
		return nil, err
	}
	payload, keys, err := noise.Finish(m.Body)
	if err != nil {
		abort(ctx, room, abortWrongCode)
		return nil, failf(ClassAuth, "ask the other side for a new code", err, "the other side does not know the code: it is wrong, or somebody sits in between")
	}
	remote, err := signal.ParseDescription(payload)
	if err != nil {
		return nil, failf(ClassSignal, "use the same version of adit on both sides", err, "the peer's answer makes no sense: %v", err)
	}
	if err := end.check(remote, keys, true, false); err != nil {
		return nil, err
	}
	return finish(ctx, cfg, end, client, room, remote, keys, true, late)
}

// finish connects while candidates of the peer still come in.
func finish(parent context.Context, cfg Config, end *endpoint, client *signal.Client, room *signal.Room, remote signal.Description, keys *handshake.Result, offered bool, late late) (*Session, error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	trickle, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	end.nat.trickle()
	wg.Go(func() { sendLate(trickle, room, newSealer(keys, offered), late, end.nat.out) })
	wg.Go(func() {
		open := newSealer(keys, !offered)
		for {
			m, err := room.Receive(trickle)
			switch {
			case err != nil:
				return // the peer may have left the room because it is up
			case m.Kind == signal.KindAbort:
				cancel(aborted(m))
				return
			case m.Kind == signal.KindCandidates:
				if d, ok := open.open(m.Body); ok {
					end.remoteCandidates(d.Candidates)
					end.nat.hear(d.NAT)
				}
			}
		}
	})
	client.Adopt(room)
	end.carryVia(trickle, client, carryID(keys))
	p, err := end.connect(ctx, checkLimit(cfg))
	stop()
	wg.Wait()
	if err != nil {
		return nil, err
	}
	return start(end, p, remote, cfg, client, keys), nil
}

// late holds the candidates that were found after this side's description left: as many as the peer
// would take, more are dropped.
type late chan punch.Candidate

func newLate() late { return make(late, 32) }

func (l late) add(c punch.Candidate) {
	select {
	case l <- c:
	default:
	}
}

// sendLate trickles the candidates that were found after the offer left, and what this side sees of its
// NAT, until ctx ends.
func sendLate(ctx context.Context, room *signal.Room, s *sealer, late <-chan punch.Candidate, nat <-chan signal.NAT) {
	for {
		var d signal.Description
		select {
		case c := <-late:
			d.Candidates = []signal.Candidate{toSignal(c)}
		case d.NAT = <-nat:
		case <-ctx.Done():
			return
		}
		if err := send(ctx, room, signal.KindCandidates, s.seal(marshal(d))); err != nil {
			return // a candidate lost is a chance lost, not the meeting
		}
	}
}

// stunServers returns the configured list, else the rendezvous' own.
func stunServers(ctx context.Context, cfg Config, client *signal.Client) ([]string, error) {
	if cfg.STUN != nil {
		return cfg.STUN, nil
	}
	ice, err := client.ICE(ctx)
	if err != nil {
		return nil, signalError(ctx, err)
	}
	return ice.STUN, nil
}

// abort tells the peer why this side stops. It has a second: the reason matters less than the end.
func abort(ctx context.Context, room *signal.Room, reason string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = room.Send(ctx, signal.Message{Kind: signal.KindAbort, Body: []byte(reason)}) // the peer times out instead
}

// A sealer keeps trickled candidates from the rendezvous, which may read everything it stores.
// Both directions have keys of their own; a message carries its counter in front.
type sealer struct {
	key [chacha20poly1305.KeySize]byte
	n   uint64
}

func newSealer(keys *handshake.Result, offerer bool) *sealer {
	label := "adit candidates of the answerer"
	if offerer {
		label = "adit candidates of the offerer"
	}
	s := &sealer{}
	copy(s.key[:], keys.Exporter(label, len(s.key)))
	return s
}

func (s *sealer) seal(b []byte) []byte {
	aead, err := chacha20poly1305.New(s.key[:])
	if err != nil {
		panic("peer: " + err.Error()) // the key has the right size
	}
	nonce := make([]byte, chacha20poly1305.NonceSize)
	binary.BigEndian.PutUint64(nonce[4:], s.n)
	s.n++
	return aead.Seal(append([]byte(nil), nonce[4:]...), nonce, b, nil)
}

// open returns what is in a sealed message, candidates mostly. One that does not open is dropped: the path is
// authenticated by itself, so the rendezvous gains nothing by forging.
func (s *sealer) open(b []byte) (signal.Description, bool) {
	aead, err := chacha20poly1305.New(s.key[:])
	if err != nil || len(b) < 8 {
		return signal.Description{}, false
	}
	nonce := append(make([]byte, 4), b[:8]...)
	plain, err := aead.Open(nil, nonce, b[8:], nil)
	if err != nil {
		return signal.Description{}, false
	}
	d, err := signal.ParseDescription(plain)
	return d, err == nil
}
