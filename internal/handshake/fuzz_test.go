package handshake

import (
	"errors"
	"testing"
)

func FuzzOpen(f *testing.F) {
	for _, c := range modes() {
		f.Add(offer(f, newInitiator(f, c), "payload"))
	}
	f.Add([]byte{})
	f.Add(make([]byte, OfferOverheadCode))
	static := NewKeyPair()
	f.Fuzz(func(t *testing.T, msg []byte) {
		for _, c := range modes() {
			c.Static = static
			r := newResponder(t, c)
			payload, err := r.Open(msg)
			switch {
			case err == nil && len(payload) > len(msg):
				t.Errorf("payload of %d bytes out of %d", len(payload), len(msg))
			case err == nil:
				if _, _, err := r.Answer(nil); err != nil && !errors.Is(err, ErrAuth) {
					t.Errorf("answer: unknown error %v", err)
				}
			case !errors.Is(err, ErrAuth) && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrVersion):
				t.Errorf("unknown error %v", err)
			}
		}
	})
}

func FuzzFinish(f *testing.F) {
	for _, c := range modes() {
		i, r := newInitiator(f, c), newResponder(f, c)
		open(f, r, offer(f, i, "p"), "p")
		msg, _ := answer(f, r, "payload")
		f.Add(msg)
	}
	f.Add([]byte{})
	f.Add(make([]byte, AnswerOverhead))
	static := NewKeyPair()
	f.Fuzz(func(t *testing.T, msg []byte) {
		for _, c := range modes() {
			c.Static = static
			i := newInitiator(t, c)
			offer(t, i, "p")
			_, res, err := i.Finish(msg)
			if err == nil || res != nil {
				t.Error("an answer to another offer was taken")
			} else if !errors.Is(err, ErrAuth) && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrVersion) {
				t.Errorf("unknown error %v", err)
			}
		}
	})
}
