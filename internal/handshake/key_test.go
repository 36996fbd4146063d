package handshake

import (
	"bytes"
	"errors"
	"testing"

	"github.com/flynn/noise"
)

// a pair of peers that know each other.
type acquaintances struct {
	home, away *KeyPair
	guard      *Guard
	asked      int // how often the list was
}

func newAcquaintances() *acquaintances {
	return &acquaintances{home: NewKeyPair(), away: NewKeyPair(), guard: NewGuard()}
}

func (a *acquaintances) initiator() Config {
	return Config{Mode: ModeKey, Static: a.away, Peer: a.home.Public, Challenge: a.guard.Challenge()}
}

func (a *acquaintances) responder() Config {
	return Config{Mode: ModeKey, Static: a.home, Guard: a.guard, Allow: func(k [32]byte) bool {
		a.asked++
		return k == a.away.Public
	}}
}

func TestKeyAgrees(t *testing.T) {
	a := newAcquaintances()
	i, r := newInitiator(t, a.initiator()), newResponder(t, a.responder())
	msg := offer(t, i, "where I am")
	if got, want := len(msg), OfferOverheadKey+len("where I am"); got != want {
		t.Errorf("offer: got %d bytes, want %d", got, want)
	}
	if bytes.Contains(msg, a.away.Public[:]) {
		t.Error("the offer shows who makes it")
	}
	open(t, r, msg, "where I am")
	if r.Peer() != a.away.Public {
		t.Error("the responder takes the initiator for somebody else")
	}
	back, theirs := answer(t, r, "where you find me")
	if got, want := len(back), AnswerOverheadKey+len("where you find me"); got != want {
		t.Errorf("answer: got %d bytes, want %d", got, want)
	}
	mine := finish(t, i, back, "where you find me")
	if mine.Send != theirs.Recv || mine.Recv != theirs.Send || mine.Send == mine.Recv || mine.Binding != theirs.Binding {
		t.Error("the two sides have different keys")
	}
	if mine.PeerStatic != a.home.Public || theirs.PeerStatic != a.away.Public || !mine.PeerKept || !theirs.PeerKept {
		t.Error("the two sides do not know each other's keys")
	}
	if _, ok := mine.Words(); ok || mine.Reveal() != nil {
		t.Error("there are words to compare in mode key")
	}
}

func TestKeyRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(a *acquaintances, i *Config)
		want   error
		asked  int
	}{
		{"a key that is not on the list", func(_ *acquaintances, i *Config) { i.Static = NewKeyPair() }, ErrStranger, 1},
		{"an offer for somebody else", func(_ *acquaintances, i *Config) { i.Peer = NewKeyPair().Public }, ErrAuth, 0},
		{"another context", func(_ *acquaintances, i *Config) { i.Context = []byte("elsewhere") }, ErrAuth, 0},
		{"a challenge that never was", func(_ *acquaintances, i *Config) { i.Challenge[0] ^= 1 }, ErrReplay, 1},
		{"the last challenge but one", func(a *acquaintances, _ *Config) { a.guard.Rotate(); a.guard.Rotate() }, ErrReplay, 1},
		{"the last challenge", func(a *acquaintances, _ *Config) { a.guard.Rotate() }, nil, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAcquaintances()
			c := a.initiator()
			tt.change(a, &c)
			r := newResponder(t, a.responder())
			_, err := r.Open(offer(t, newInitiator(t, c), "x"))
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if a.asked != tt.asked {
				t.Errorf("the list was asked %d times, want %d", a.asked, tt.asked)
			}
			if _, _, err := r.Answer(nil); tt.want != nil && !errors.Is(err, ErrState) {
				t.Errorf("answer to a refused offer: got %v, want %v", err, ErrState)
			}
		})
	}
}

func TestKeyEveryBitCounts(t *testing.T) {
	a := newAcquaintances()
	msg := offer(t, newInitiator(t, a.initiator()), "x")
	for n := range msg {
		bad := bytes.Clone(msg)
		bad[n] ^= 0x80
		if _, err := newResponder(t, a.responder()).Open(bad); err == nil {
			t.Fatalf("the offer opens with byte %d changed", n)
		}
	}
	r := newResponder(t, a.responder())
	open(t, r, msg, "x")
	for _, n := range []int{0, OfferOverheadKey - 1} {
		if _, err := newResponder(t, a.responder()).Open(msg[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes: got %v, want %v", n, err, ErrMalformed)
		}
	}
}

// A wrong answer is the rendezvous' doing, and must not spoil the right one.
func TestKeyFinishAgain(t *testing.T) {
	a := newAcquaintances()
	i, r := newInitiator(t, a.initiator()), newResponder(t, a.responder())
	open(t, r, offer(t, i, "x"), "x")
	back, _ := answer(t, r, "y")
	bad := bytes.Clone(back)
	bad[40] ^= 1
	if _, _, err := i.Finish(bad); !errors.Is(err, ErrAuth) {
		t.Fatalf("got %v, want %v", err, ErrAuth)
	}
	finish(t, i, back, "y")
}

func TestKeyReplay(t *testing.T) {
	a := newAcquaintances()
	msg := offer(t, newInitiator(t, a.initiator()), "x")
	open(t, newResponder(t, a.responder()), msg, "x")
	for range 3 {
		if _, err := newResponder(t, a.responder()).Open(msg); !errors.Is(err, ErrReplay) {
			t.Fatalf("got %v, want %v", err, ErrReplay)
		}
		a.guard.Rotate()
	}
}

// What a stranger costs: one X25519, however well his offer is made.
func TestStrangerCostsOneDH(t *testing.T) {
	for name, known := range map[string]bool{"stranger": false, "listed": true} {
		n := 0
		d := &listedDH{DHFunc: countingDH{noise.DH25519, &n}, allow: func([32]byte) bool { return known }}
		home, away := NewKeyPair(), NewKeyPair()
		i := newInitiator(t, Config{Mode: ModeKey, Static: away, Peer: home.Public})
		hs, err := noise.NewHandshakeState(noise.Config{
			CipherSuite: noise.NewCipherSuite(d, noise.CipherChaChaPoly, noise.HashBLAKE2s), Pattern: noise.HandshakeIK,
			Prologue:      i.noise.Prologue,
			StaticKeypair: noise.DHKey{Private: home.Private[:], Public: home.Public[:]},
		})
		if err != nil {
			t.Fatal(err)
		}
		_, _, _, err = hs.ReadMessage(nil, offer(t, i, "x"))
		want := map[bool]int{false: 1, true: 2}[known]
		if n != want || (err == nil) != known {
			t.Errorf("%s: %d computations and %v, want %d", name, n, err, want)
		}
	}
}

type countingDH struct {
	noise.DHFunc
	n *int
}

func (c countingDH) DH(private, public []byte) ([]byte, error) {
	*c.n++
	return c.DHFunc.DH(private, public)
}

func TestGuardBound(t *testing.T) {
	g := NewGuard()
	first := g.Challenge()
	var e [32]byte
	for n := range guardOffers {
		e[0], e[1] = byte(n), byte(n>>8)
		if err := g.admit(first, e); err != nil {
			t.Fatalf("offer %d: %v", n, err)
		}
	}
	e[2] = 1
	if err := g.admit(first, e); !errors.Is(err, ErrReplay) {
		t.Fatalf("one more than %d: got %v, want %v", guardOffers, err, ErrReplay)
	}
	second := g.Challenge()
	if second == first {
		t.Fatal("a full challenge stays the newest")
	}
	if err := g.admit(second, e); err != nil {
		t.Errorf("under the next challenge: %v", err)
	}
	if err := g.admit(first, e); !errors.Is(err, ErrReplay) || g.Challenge() != second {
		t.Errorf("an offer under a full challenge: got %v, want %v and no further change", err, ErrReplay)
	}
}

func TestKeyConfig(t *testing.T) {
	a := newAcquaintances()
	bad := map[string]func(*Config){
		"no static key": func(c *Config) { c.Static = nil },
		"a psk":         func(c *Config) { c.PSK = make([]byte, 32) },
		"no peer":       func(c *Config) { c.Peer = [32]byte{} },
	}
	for name, change := range bad {
		c := a.initiator()
		change(&c)
		if _, err := NewInitiator(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for name, change := range map[string]func(*Config){"no list": func(c *Config) { c.Allow = nil }, "no guard": func(c *Config) { c.Guard = nil }} {
		c := a.responder()
		change(&c)
		if _, err := NewResponder(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A key that is kept is told to the peer of a code meeting only if this side wants so.
func TestKeepInCode(t *testing.T) {
	for _, keep := range []bool{false, true} {
		ci, cr := codeConfig(), codeConfig()
		ci.Static, ci.Keep = NewKeyPair(), keep
		i, r := newInitiator(t, ci), newResponder(t, cr)
		open(t, r, offer(t, i, ""), "")
		back, theirs := answer(t, r, "")
		mine := finish(t, i, back, "")
		if theirs.PeerKept != keep || mine.PeerKept || theirs.PeerStatic != ci.Static.Public {
			t.Errorf("keep %v: the responder hears %v, the initiator %v", keep, theirs.PeerKept, mine.PeerKept)
		}
	}
}

func FuzzKeyOpen(f *testing.F) {
	a := newAcquaintances()
	msg := offer(f, newInitiator(f, a.initiator()), "payload")
	f.Add(msg)
	f.Add(msg[:OfferOverheadKey])
	f.Add(make([]byte, OfferOverheadKey))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := newResponder(t, a.responder()).Open(b)
		if err == nil && !bytes.Equal(b, msg) {
			t.Fatal("an offer that nobody made opens")
		}
	})
}

func BenchmarkStranger(b *testing.B) {
	a := newAcquaintances()
	c := a.initiator()
	c.Static = NewKeyPair()
	msg := offer(b, newInitiator(b, c), "x")
	for b.Loop() {
		if _, err := newResponder(b, a.responder()).Open(msg); !errors.Is(err, ErrStranger) {
			b.Fatal(err)
		}
	}
}
