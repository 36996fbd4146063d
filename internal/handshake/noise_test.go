package handshake

import (
	"bytes"
	"encoding/base64"
	"errors"
	"testing"
)

func pasteConfig() Config { return Config{Mode: ModePaste, Context: []byte("test")} }

func codeConfig() Config {
	return Config{Mode: ModeCode, PSK: bytes.Repeat([]byte{9}, 32), Context: []byte("room 7341")}
}

func modes() map[string]Config {
	return map[string]Config{"paste": pasteConfig(), "code": codeConfig()}
}

func newInitiator(t testing.TB, c Config) *Initiator {
	t.Helper()
	i, err := NewInitiator(c)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func newResponder(t testing.TB, c Config) *Responder {
	t.Helper()
	r, err := NewResponder(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func offer(t testing.TB, i *Initiator, payload string) []byte {
	t.Helper()
	msg, err := i.Offer([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func open(t testing.TB, r *Responder, msg []byte, want string) {
	t.Helper()
	got, err := r.Open(msg)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Fatalf("offer's payload: got %q, want %q", got, want)
	}
}

func answer(t testing.TB, r *Responder, payload string) ([]byte, *Result) {
	t.Helper()
	msg, res, err := r.Answer([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return msg, res
}

func finish(t testing.TB, i *Initiator, msg []byte, want string) *Result {
	t.Helper()
	got, res, err := i.Finish(msg)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Fatalf("answer's payload: got %q, want %q", got, want)
	}
	return res
}

// run makes both Results of an undisturbed handshake.
func run(t testing.TB, ci, cr Config) (a, b *Result) {
	t.Helper()
	i, r := newInitiator(t, ci), newResponder(t, cr)
	open(t, r, offer(t, i, "from a"), "from a")
	msg, b := answer(t, r, "from b")
	return finish(t, i, msg, "from b"), b
}

func TestHandshake(t *testing.T) {
	for name, c := range modes() {
		t.Run(name, func(t *testing.T) {
			ka, kb := NewKeyPair(), NewKeyPair()
			ca, cb := c, c
			ca.Static, cb.Static = ka, kb
			a, b := run(t, ca, cb)
			if a.Send != b.Recv || a.Recv != b.Send {
				t.Error("link keys differ")
			}
			if a.Send == a.Recv || a.Send == [32]byte{} || a.Recv == [32]byte{} {
				t.Error("link keys are weak")
			}
			if a.Binding != b.Binding || a.Binding == [32]byte{} {
				t.Error("bindings differ")
			}
			if a.PeerStatic != kb.Public || b.PeerStatic != ka.Public {
				t.Error("static keys are not the peers'")
			}
			if !a.Initiator || b.Initiator {
				t.Error("sides are mixed up")
			}
			if a.Suite != b.Suite {
				t.Errorf("suites: %v and %v", a.Suite, b.Suite)
			}
			x, y := a.Exporter("restart", 48), b.Exporter("restart", 48)
			if len(x) != 48 || !bytes.Equal(x, y) {
				t.Error("exports differ")
			}
			if bytes.Equal(x[:32], a.Exporter("reset", 32)) {
				t.Error("labels do not separate exports")
			}
			checkWords(t, a, b)

			c, _ := run(t, ca, cb)
			if c.Send == a.Send || c.Binding == a.Binding || bytes.Equal(c.Exporter("restart", 48), x) {
				t.Error("a second handshake gave the same keys")
			}
		})
	}
}

// TestByCode is the whole way of a code: two PAKE messages, then offer and answer.
func TestByCode(t *testing.T) {
	code := NewCode("7341")
	run := func(joined Code) error {
		creator, joiner := newPAKE(t, code, testSID, true), newPAKE(t, joined, testSID, false)
		kc, err := creator.Finish(joiner.Message())
		if err != nil {
			return err
		}
		kj, err := joiner.Finish(creator.Message())
		if err != nil {
			return err
		}
		i := newInitiator(t, Config{Mode: ModeCode, PSK: kj[:]})
		r := newResponder(t, Config{Mode: ModeCode, PSK: kc[:]})
		msg := offer(t, i, "candidates")
		if bytes.Contains(msg, []byte("candidates")) {
			t.Error("payload can be read")
		}
		if _, err := r.Open(msg); err != nil {
			if _, again := r.Open(msg); !errors.Is(again, ErrState) {
				t.Errorf("second guess: got %v, want %v", again, ErrState)
			}
			return err
		}
		msg, b := answer(t, r, "mine")
		a := finish(t, i, msg, "mine")
		if a.Send != b.Recv {
			t.Error("link keys differ")
		}
		return nil
	}
	if err := run(code); err != nil {
		t.Fatal(err)
	}
	wrong := code
	wrong.Words[2] = wrong.Words[0]
	if wrong == code {
		wrong.Words[2] = "zoo"
	}
	if err := run(wrong); !errors.Is(err, ErrAuth) {
		t.Errorf("wrong word: got %v, want %v", err, ErrAuth)
	}
}

func TestMismatch(t *testing.T) {
	tests := map[string]struct {
		base   Config
		change func(*Config)
	}{
		"psk":               {codeConfig(), func(c *Config) { c.PSK = bytes.Repeat([]byte{8}, 32) }},
		"context, code":     {codeConfig(), func(c *Config) { c.Context = []byte("room 7342") }},
		"context, paste":    {pasteConfig(), func(c *Config) { c.Context = nil }},
		"responder by code": {pasteConfig(), func(c *Config) { *c = codeConfig(); c.Context = []byte("test") }},
		"responder pastes":  {codeConfig(), func(c *Config) { c.Mode, c.PSK = ModePaste, nil }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			other := tt.base
			tt.change(&other)
			i, r := newInitiator(t, tt.base), newResponder(t, other)
			// Long enough for the other mode, so that it is not the length that gives it away.
			_, err := r.Open(offer(t, i, string(make([]byte, 64))))
			if err == nil { // IX cannot tell before the answer
				var msg []byte
				msg, _ = answer(t, r, "from b")
				_, _, err = i.Finish(msg)
			}
			if !errors.Is(err, ErrAuth) && !errors.Is(err, ErrVersion) {
				t.Errorf("got %v, want %v", err, ErrAuth)
			}
		})
	}
}

// TestAltered flips every bit of both messages, and cuts and lengthens them: nobody ends with a Result
// who should not.
func TestAltered(t *testing.T) {
	known := func(err error) bool {
		return errors.Is(err, ErrAuth) || errors.Is(err, ErrMalformed) || errors.Is(err, ErrVersion)
	}
	variants := func(msg []byte) (out [][]byte) {
		for n := range msg {
			for bit := range 8 {
				m := bytes.Clone(msg)
				m[n] ^= 1 << bit
				out = append(out, m)
			}
		}
		for n := range msg {
			out = append(out, msg[:n])
		}
		return append(out, append(bytes.Clone(msg), 0), append([]byte{0}, msg...), make([]byte, MaxMessage+1))
	}
	for name, c := range modes() {
		c.Static = NewKeyPair()
		t.Run(name+" offer", func(t *testing.T) {
			i := newInitiator(t, c)
			for n, m := range variants(offer(t, i, "p")) {
				r := newResponder(t, c)
				_, err := r.Open(m)
				if c.Mode == ModeCode && err == nil {
					t.Fatalf("variant %d opened", n)
				}
				if err == nil {
					var msg []byte
					if msg, _, err = r.Answer(nil); err == nil {
						_, _, err = i.Finish(msg)
					}
				}
				if !known(err) {
					t.Fatalf("variant %d: got %v", n, err)
				}
			}
		})
		t.Run(name+" answer", func(t *testing.T) {
			i, r := newInitiator(t, c), newResponder(t, c)
			open(t, r, offer(t, i, "p"), "p")
			msg, b := answer(t, r, "q")
			for n, m := range variants(msg) {
				_, res, err := i.Finish(m)
				if !known(err) || res != nil {
					t.Fatalf("variant %d: got %v", n, err)
				}
				if c.Mode == ModeCode {
					if _, _, err := i.Finish(msg); !errors.Is(err, ErrState) {
						t.Fatalf("second answer: got %v, want %v", err, ErrState)
					}
					i.at = halfway // the only way to go on
				}
			}
			if a := finish(t, i, msg, "q"); a.Send != b.Recv {
				t.Error("link keys differ after bad answers")
			}
		})
	}
}

func TestSuites(t *testing.T) {
	if !hasAES() {
		t.Log("this processor has no aes instructions: every suite is chacha20-poly1305 here")
	}
	for _, tt := range []struct {
		name string
		a, b bool // NoAES
		want Suite
	}{
		{"both", false, false, AES256GCM},
		{"responder only", true, false, ChaCha20Poly1305},
		{"initiator only", false, true, ChaCha20Poly1305},
		{"neither", true, true, ChaCha20Poly1305},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			if !hasAES() {
				want = ChaCha20Poly1305
			}
			for _, c := range modes() {
				ca, cb := c, c
				ca.NoAES, cb.NoAES = tt.a, tt.b
				a, b := run(t, ca, cb)
				if a.Suite != want || b.Suite != want {
					t.Errorf("got %v and %v, want %v", a.Suite, b.Suite, want)
				}
			}
		})
	}
	if a, c := AES256GCM.String(), ChaCha20Poly1305.String(); a != "AES-256-GCM" || c != "ChaCha20-Poly1305" {
		t.Errorf("got %s and %s", a, c)
	}
}

func TestOutOfOrder(t *testing.T) {
	for name, c := range modes() {
		t.Run(name, func(t *testing.T) {
			i, r := newInitiator(t, c), newResponder(t, c)
			state := func(what string, err error) {
				t.Helper()
				if !errors.Is(err, ErrState) {
					t.Errorf("%s: got %v, want %v", what, err, ErrState)
				}
			}
			_, _, err := i.Finish(make([]byte, 200))
			state("finish before offer", err)
			_, _, err = r.Answer(nil)
			state("answer before open", err)
			msg := offer(t, i, "p")
			_, err = i.Offer(nil)
			state("second offer", err)
			open(t, r, msg, "p")
			_, err = r.Open(msg)
			state("second open", err)
			msg, _ = answer(t, r, "q")
			_, _, err = r.Answer(nil)
			state("second answer", err)
			finish(t, i, msg, "q")
			_, _, err = i.Finish(msg)
			state("second finish", err)
			_, err = i.Offer(nil)
			state("offer after finish", err)
			_, err = r.Open(msg)
			state("open after answer", err)
		})
	}
}

func TestSizes(t *testing.T) {
	for name, c := range modes() {
		t.Run(name, func(t *testing.T) {
			i, r := newInitiator(t, c), newResponder(t, c)
			big := string(make([]byte, MaxPayload))
			if _, err := i.Offer(make([]byte, MaxPayload+1)); err == nil {
				t.Error("too large an offer accepted")
			}
			o := offer(t, i, big)
			open(t, r, o, big)
			if _, _, err := r.Answer(make([]byte, MaxPayload+1)); err == nil {
				t.Error("too large an answer accepted")
			}
			a, _ := answer(t, r, big)
			finish(t, i, a, big)
			overhead := OfferOverheadPaste
			if c.Mode == ModeCode {
				overhead = OfferOverheadCode
			}
			if got := len(o) - len(big); got != overhead {
				t.Errorf("offer's overhead: got %d, want %d", got, overhead)
			}
			if got := len(a) - len(big); got != AnswerOverhead {
				t.Errorf("answer's overhead: got %d, want %d", got, AnswerOverhead)
			}
		})
	}
	// A description of 120 bytes must leave room for a prefix and a checksum in a line of 350.
	for _, overhead := range []int{OfferOverheadPaste, AnswerOverhead} {
		if n := base64.RawURLEncoding.EncodedLen(overhead + 120); n > 320 {
			t.Errorf("overhead of %d bytes makes %d characters", overhead, n)
		}
	}
}

func TestConfigRejects(t *testing.T) {
	crossed := NewKeyPair()
	crossed.Public = NewKeyPair().Public
	for name, c := range map[string]Config{
		"zero":           {},
		"unknown mode":   {Mode: 3},
		"paste with psk": {Mode: ModePaste, PSK: make([]byte, 32)},
		"code, no psk":   {Mode: ModeCode},
		"short psk":      {Mode: ModeCode, PSK: bytes.Repeat([]byte{1}, 31)},
		"zero psk":       {Mode: ModeCode, PSK: make([]byte, 32)},
		"crossed key":    {Mode: ModePaste, Static: crossed},
	} {
		if _, err := NewInitiator(c); err == nil {
			t.Errorf("%s: initiator accepted", name)
		}
		if _, err := NewResponder(c); err == nil {
			t.Errorf("%s: responder accepted", name)
		}
	}
}

// TestConfigIsCopied changes everything behind a Config after it was used.
func TestConfigIsCopied(t *testing.T) {
	c := codeConfig()
	c.Static = NewKeyPair()
	i, r := newInitiator(t, c), newResponder(t, c)
	clear(c.PSK)
	clear(c.Context)
	*c.Static = KeyPair{}
	payload := []byte("p")
	msg, err := i.Offer(payload)
	if err != nil {
		t.Fatal(err)
	}
	clear(payload)
	open(t, r, msg, "p")
	msg, _ = answer(t, r, "q")
	finish(t, i, msg, "q")
}

// TestLowOrderKeys feeds Curve25519 points that make a Diffie-Hellman zero.
func TestLowOrderKeys(t *testing.T) {
	one := make([]byte, 32)
	one[0] = 1
	order8 := unhex(t, "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
	for name, p := range map[string][]byte{"zero": make([]byte, 32), "one": one, "order 8": order8} {
		for at, part := range map[int]string{0: "ephemeral", 32: "static"} {
			i, r := newInitiator(t, pasteConfig()), newResponder(t, pasteConfig())
			msg := offer(t, i, "p")
			copy(msg[at:], p)
			open(t, r, msg, "p")
			if _, _, err := r.Answer(nil); !errors.Is(err, ErrAuth) {
				t.Errorf("%s as %s key: got %v, want %v", name, part, err, ErrAuth)
			}
		}
		i := newInitiator(t, pasteConfig())
		offer(t, i, "p")
		bad := make([]byte, AnswerOverhead)
		copy(bad, p)
		if _, _, err := i.Finish(bad); !errors.Is(err, ErrAuth) {
			t.Errorf("%s in the answer: got %v, want %v", name, err, ErrAuth)
		}
	}
}
