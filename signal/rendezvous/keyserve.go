package rendezvous

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"time"

	"adit/signal"
)

const (
	// MaxOffer is the largest offer in a mailbox by key, in bytes.
	MaxOffer = 4 << 10

	// keyRoomLife is how long the room lives that two peers get who met by key. Both are there already.
	keyRoomLife = 2 * time.Minute
)

// keyClaim is the reply to who wants to claim a mailbox.
type keyClaim struct {
	Key   string `json:"key"`   // the server's, in hexadecimal
	Nonce string `json:"nonce"` // in hexadecimal
}

// keyToken is the reply to who has claimed one.
type keyToken struct {
	Token string `json:"token"`
}

// key answers what begins with /v1/key/{name}. docs/rendezvous.md describes the requests.
func (s *Server) key(q *request) *problem {
	w, r, to := q.w, q.r, q.to
	switch to.action {
	case actKeyAsk:
		done, err := s.keys.ask(to.key, q.addr)
		if err != nil {
			return s.keyProblem(err)
		}
		defer done()
		return s.wait(q, "", func() ([]byte, <-chan struct{}, *problem) {
			c, present, err := s.keys.challenge(to.key)
			if err != nil {
				return nil, nil, s.keyProblem(err)
			}
			if c == "" {
				return nil, present, nil
			}
			return fromHex(c), nil, nil
		})
	case actKeyNonce:
		reply(w, http.StatusOK, keyClaim{hex.EncodeToString(s.keys.private.PublicKey().Bytes()), hex.EncodeToString(s.keys.nonce(to.key))})
		return nil
	case actKeyClaim:
		return s.keyClaim(q)
	case actKeyOffer:
		return s.keyOffer(q)
	}
	token, ok := bearer(r.Header)
	if !ok {
		return s.keyProblem(errNoListener)
	}
	switch to.action {
	case actKeyPoll:
		done, err := s.keys.poll(to.key, token, to.name)
		if err != nil {
			return s.keyProblem(err)
		}
		defer done()
		q.conn.rise(insider)
		return s.wait(q, token, func() ([]byte, <-chan struct{}, *problem) {
			b, changed, err := s.keys.fetch(to.key, token, uint64(to.after))
			if err != nil {
				return nil, nil, s.keyProblem(err)
			}
			return b, changed, nil
		})
	case actKeyAccept:
		return s.keyAccept(q, token)
	}
	if err := s.keys.leave(to.key, token); err != nil {
		return s.keyProblem(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) keyClaim(q *request) *problem {
	w, r, to := q.w, q.r, q.to
	if !s.limits.allow(q.addr, perClaim, 1) {
		return tooMany(limitClaims, "too many claims from this address", 5*time.Second)
	}
	b, p := s.body(q)
	if p != nil {
		return p
	}
	if len(b) <= keyNonceLen {
		return s.keyProblem(signal.ErrClaim)
	}
	if err := s.keys.proved(to.key, b[:keyNonceLen], hostOf(r.Host), b[keyNonceLen:]); err != nil {
		return s.keyProblem(err)
	}
	if p := s.admit(q, "key", to.key, perClaim); p != nil {
		return p
	}
	token, err := s.keys.claim(to.key, b[:keyNonceLen], hostOf(r.Host), b[keyNonceLen:], q.addr)
	if err != nil {
		return s.keyProblem(err)
	}
	q.conn.rise(insider)
	reply(w, http.StatusCreated, keyToken{token})
	return nil
}

// keyOffer leaves an offer and waits until the listener has accepted it.
func (s *Server) keyOffer(q *request) *problem {
	w, r, to := q.w, q.r, q.to
	token, ok := bearer(r.Header)
	wait, good := parseWait(r.URL.RawQuery)
	if !ok || !good {
		return &problem{status: http.StatusBadRequest, text: "an offer has a token and the query wait=SECONDS"}
	}
	if !s.limits.allow(q.addr, perOffer, 1) {
		return tooMany(limitOffers, "too many offers from this address", 2*time.Second)
	}
	b, p := s.body(q)
	switch {
	case p != nil:
		return p
	case len(b) == 0:
		return &problem{status: http.StatusBadRequest, text: "the offer is empty"}
	case len(b) > MaxOffer:
		return &problem{status: http.StatusRequestEntityTooLarge, text: "an offer has at most " + strconv.Itoa(MaxOffer) + " bytes"}
	}
	waiting, limit := s.limits.poll(q.addr, "")
	if limit != "" {
		return tooManyPolls(limit)
	}
	defer waiting.done()
	o, done, err := s.keys.offer(to.key, token, q.addr, b)
	if err != nil {
		return s.keyProblem(err)
	}
	wait = lasting(w, wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-o.done:
		done(false)
		if o.room == nil {
			w.WriteHeader(http.StatusNoContent) // another listener came: look for his challenge
			return nil
		}
		room := *o.room
		relays := s.turnFor(q, room.ID, joiner)
		room.TURN, room.Pass = relays.TURN, relays.Pass
		reply(w, http.StatusCreated, room)
	case <-timer.C:
		done(true)
		w.WriteHeader(http.StatusNoContent)
	case <-r.Context().Done():
		done(false)
	case <-waiting.kicked:
		done(true)
		return busy(limitPolls)
	case <-s.done:
		done(true)
		return going()
	}
	return nil
}

// keyAccept makes a room for the two peers, with the listener's answer as its first message.
func (s *Server) keyAccept(q *request, token string) *problem {
	w, r, to := q.w, q.r, q.to
	if err := s.keys.listens(to.key, token); err != nil {
		return s.keyProblem(err)
	}
	q.conn.rise(insider)
	answer, p := s.body(q)
	switch {
	case p != nil:
		return p
	case len(answer) == 0:
		return &problem{status: http.StatusBadRequest, text: "the answer is empty"}
	}
	room := Room{ID: secret(), Token: secret(), Expires: s.cfg.Now().Add(keyRoomLife), First: answer, From: q.addr}
	mine := created{ID: room.ID, Token: room.Token, Expires: room.Expires.UTC().Truncate(time.Second), Seconds: int(keyRoomLife / time.Second)}
	err := s.keys.accept(to.key, token, to.name, func(sender string) (*created, error) {
		room.Joiner = sender
		if err := s.store.Create(r.Context(), room); err != nil {
			return nil, err
		}
		his := mine
		his.Token, his.Message = sender, base64.StdEncoding.EncodeToString(answer)
		return &his, nil
	})
	if err != nil {
		return s.keyProblem(err)
	}
	relays := s.turnFor(q, room.ID, creator)
	mine.TURN, mine.Pass = relays.TURN, relays.Pass
	reply(w, http.StatusCreated, mine)
	return nil
}

func tooManyMailboxes() *problem {
	return tooMany(limitMailboxes, "too many mailboxes for this address", 5*time.Second)
}

// keyProblem says what an error of the mailboxes by key means to a client.
func (s *Server) keyProblem(err error) *problem {
	switch {
	case errors.Is(err, signal.ErrClaim):
		return &problem{status: http.StatusForbidden, text: "this does not prove that the key is yours", hint: "if a proxy stands in front of the rendezvous, it has to pass the Host header on"}
	case errors.Is(err, errNoListener), errors.Is(err, errNoOffer):
		return &problem{status: http.StatusNotFound, text: "there is nobody"}
	case errors.Is(err, errReplaced):
		return &problem{status: http.StatusGone, text: "another process listens with this key", hint: "let only one listen"}
	case errors.Is(err, errKeyBusy):
		return tooMany(limitOffersWaiting, "too many offers wait there", time.Second)
	case errors.Is(err, ErrFull):
		return busy(limitKeyboxes)
	}
	return s.storeProblem(err)
}

// fromHex reads what was checked to be hexadecimal.
func fromHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("rendezvous: " + err.Error())
	}
	return b
}
