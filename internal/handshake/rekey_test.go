package handshake

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/flynn/noise"
)

// met returns both sides' results of a handshake.
func met(t testing.TB, c Config) (a, b *Result) {
	t.Helper()
	return shake(t, newInitiator(t, c), newResponder(t, c))
}

// shake runs a handshake.
func shake(t testing.TB, i *Initiator, r *Responder) (a, b *Result) {
	t.Helper()
	open(t, r, offer(t, i, "o"), "o")
	msg, b := answer(t, r, "a")
	_, a, err := i.Finish(msg)
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// metByKey is met in ModeKey.
func metByKey(t testing.TB) (a, b *Result) {
	t.Helper()
	ours, theirs, guard := NewKeyPair(), NewKeyPair(), NewGuard()
	i := newInitiator(t, Config{Mode: ModeKey, Static: ours, Peer: theirs.Public, Challenge: guard.Challenge()})
	r := newResponder(t, Config{Mode: ModeKey, Static: theirs, Guard: guard, Allow: func(k [32]byte) bool { return k == ours.Public }})
	return shake(t, i, r)
}

// rekey runs one rekeying.
func rekey(t testing.TB, a, b *Result, number uint32) (nextA, nextB *Result) {
	t.Helper()
	k, err := a.Rekey(number)
	if err != nil {
		t.Fatal(err)
	}
	msg, nextB, err := b.AnswerRekey(number, k.Message())
	if err != nil {
		t.Fatal(err)
	}
	if nextA, err = k.Finish(msg); err != nil {
		t.Fatal(err)
	}
	return nextA, nextB
}

func TestRekey(t *testing.T) {
	for name, meet := range map[string]func() (a, b *Result){
		"paste": func() (a, b *Result) { return met(t, pasteConfig()) },
		"code":  func() (a, b *Result) { return met(t, codeConfig()) },
		"key":   func() (a, b *Result) { return metByKey(t) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := meet()
			seen := map[[32]byte]bool{a.Send: true, a.Recv: true, a.Binding: true}
			for n := range uint32(5) {
				nextA, nextB := rekey(t, a, b, n+1)
				if nextA.Send != nextB.Recv || nextA.Recv != nextB.Send || nextA.Binding != nextB.Binding {
					t.Fatal("the sides disagree")
				}
				if !bytes.Equal(nextA.Exporter("x", 32), nextB.Exporter("x", 32)) || bytes.Equal(nextA.Exporter("x", 32), a.Exporter("x", 32)) {
					t.Error("what is exported does not follow")
				}
				if nextA.Suite != a.Suite || nextA.PeerStatic != a.PeerStatic || nextB.PeerStatic != b.PeerStatic || nextA.PeerKept != a.PeerKept || !nextA.Initiator || nextB.Initiator {
					t.Error("what is not negotiated changed")
				}
				for _, k := range [][32]byte{nextA.Send, nextA.Recv, nextA.Binding} {
					if seen[k] || k == [32]byte{} {
						t.Fatal("a key came twice")
					}
					seen[k] = true
				}
				a, b = nextA, nextB
			}
		})
	}
}

func TestRekeyRefuses(t *testing.T) {
	a, b := met(t, pasteConfig())
	otherA, otherB := met(t, pasteConfig())
	nextA, nextB := rekey(t, a, b, 1)
	k, err := a.Rekey(7)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(b []byte, i int) []byte { b = bytes.Clone(b); b[i] ^= 1; return b }
	low := append(make([]byte, keyLen), k.Message()[keyLen:]...)
	for name, test := range map[string]struct {
		by     *Result
		number uint32
		msg    []byte
		want   error
	}{
		"another number":        {b, 8, k.Message(), ErrAuth},
		"keys of later":         {nextB, 7, k.Message(), ErrAuth},
		"another session":       {otherB, 7, k.Message(), ErrAuth},
		"a changed key":         {b, 7, flip(k.Message(), 3), ErrAuth},
		"a changed tag":         {b, 7, flip(k.Message(), 40), ErrAuth},
		"a low order key":       {b, 7, low, ErrAuth},
		"short":                 {b, 7, k.Message()[:RekeyLen-1], ErrMalformed},
		"long":                  {b, 7, append(bytes.Clone(k.Message()), 0), ErrMalformed},
		"empty":                 {b, 7, nil, ErrMalformed},
		"the wrong side":        {a, 7, k.Message(), ErrState},
		"fits after all that":   {b, 7, k.Message(), nil},
		"and once more, by all": {b, 7, k.Message(), nil},
	} {
		if _, _, err := test.by.AnswerRekey(test.number, test.msg); !errors.Is(err, test.want) {
			t.Errorf("answer %s: got %v, want %v", name, err, test.want)
		}
	}
	good, _, err := b.AnswerRekey(7, k.Message())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := otherA.Rekey(7)
	if err != nil {
		t.Fatal(err)
	}
	theirs, _, err := otherB.AnswerRekey(7, foreign.Message())
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{"another session": theirs, "changed": flip(good, 0), "tag": flip(good, 47), "our own": k.Message()} {
		if _, err := k.Finish(bad); !errors.Is(err, ErrAuth) {
			t.Errorf("finish with %s: got %v, want %v", name, err, ErrAuth)
		}
	}
	if _, err := k.Finish(good[:40]); !errors.Is(err, ErrMalformed) {
		t.Errorf("finish with a part: got %v", err)
	}
	if _, err := k.Finish(good); err != nil {
		t.Errorf("finish after bad answers: %v", err)
	}
	if _, err := k.Finish(good); !errors.Is(err, ErrState) {
		t.Errorf("finish twice: got %v, want %v", err, ErrState)
	}
	if _, err := b.Rekey(9); !errors.Is(err, ErrState) {
		t.Errorf("begin as the responder: got %v, want %v", err, ErrState)
	}
	nextA.Erase()
	if _, err := nextA.Rekey(2); !errors.Is(err, ErrState) || nextA.Send != [32]byte{} {
		t.Errorf("begin with erased keys: got %v, want %v", err, ErrState)
	}
}

// Who has all secrets of a session but a static key can neither begin nor answer a rekeying, and who has a static
// key alone cannot either.
func TestRekeyKeepsThievesOut(t *testing.T) {
	a, b := metByKey(t)
	stolen := *a // the thief puts a key of his own in the place of the static one
	own := NewKeyPair()
	stolen.static = noise.DHKey{Private: own.Private[:], Public: own.Public[:]}
	k, err := stolen.Rekey(1)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.AnswerRekey(1, k.Message()); !errors.Is(err, ErrAuth) {
		t.Errorf("a thief of the session's keys began: got %v, want %v", err, ErrAuth)
	}
	again, _ := metByKey(t) // another session of somebody with the same static keys
	again.static, again.PeerStatic, again.Binding = a.static, a.PeerStatic, a.Binding
	if k, err = again.Rekey(1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.AnswerRekey(1, k.Message()); !errors.Is(err, ErrAuth) {
		t.Errorf("a thief of the static key began: got %v, want %v", err, ErrAuth)
	}
	// A thief of b's session answers a.
	honest, err := a.Rekey(1)
	if err != nil {
		t.Fatal(err)
	}
	robbed := *b
	robbed.static = noise.DHKey{Private: own.Private[:], Public: own.Public[:]}
	if _, _, err := robbed.AnswerRekey(1, honest.Message()); !errors.Is(err, ErrAuth) {
		t.Errorf("a thief of the session's keys read the rekeying: got %v, want %v", err, ErrAuth)
	}
}

// The vector of flynn/noise's vectors.txt for Noise_KKpsk0_25519_ChaChaPoly_BLAKE2s with a prologue and empty
// payloads; the messages after the handshake show both keys.
func TestRekeyVector(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	pair := func(s string) noise.DHKey {
		k := KeyPairFrom([32]byte(unhex(s)))
		return noise.DHKey{Private: k.Private[:], Public: k.Public[:]}
	}
	one := pair("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	two := pair("0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20")
	ea := unhex("202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f")
	eb := unhex("4142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60")
	psk := unhex("2176657279736563726574766572797365637265747665727973656372657421")
	c, err := (&Result{exporter: []byte{1}, Initiator: true}).rekeyConfig(0)
	if err != nil {
		t.Fatal(err)
	}
	c.Prologue, c.PresharedKey, c.StaticKeypair, c.PeerStatic = unhex("6e6f74736563726574"), psk, one, two.Public
	k := &Rekeying{conf: c, seed: [32]byte(ea)}
	_, msg, err := k.start()
	if want := unhex("358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254df63a84e581cf0ee95c5bee20b388692"); err != nil || !bytes.Equal(msg, want) {
		t.Fatalf("first message: got %x, %v, want %x", msg, err, want)
	}
	c.Initiator, c.StaticKeypair, c.PeerStatic, c.Random = false, two, one.Public, bytes.NewReader(eb)
	_, answer, in, out, err := answerRekey(c, msg)
	if want := unhex("64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466c9172f26d7b9526845b62124cc08260e"); err != nil || !bytes.Equal(answer, want) {
		t.Fatalf("second message: got %x, %v, want %x", answer, err, want)
	}
	_, send, recv, err := k.read(answer)
	if err != nil {
		t.Fatal(err)
	}
	if send.UnsafeKey() != in.UnsafeKey() || recv.UnsafeKey() != out.UnsafeKey() {
		t.Error("the sides disagree")
	}
	for name, test := range map[string]struct {
		by          *noise.CipherState
		plain, want string
	}{
		"initiator's": {send, "79656c6c6f777375626d6172696e65", "42e238b4b6180654120bdb79734c6bbf8d47cc49f94689740b89443a5f809c"},
		"responder's": {out, "7375626d6172696e6579656c6c6f77", "556615110f73692755058a5f80d58f952a3eecccd14006edf6dcff48f44b5a"},
	} {
		if got, err := test.by.Encrypt(nil, nil, unhex(test.plain)); err != nil || hex.EncodeToString(got) != test.want {
			t.Errorf("%s key seals %x, %v, want %s", name, got, err, test.want)
		}
	}
}

func FuzzRekey(f *testing.F) {
	a, b := met(f, pasteConfig())
	k, err := a.Rekey(1)
	if err != nil {
		f.Fatal(err)
	}
	msg, _, err := b.AnswerRekey(1, k.Message())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.Message())
	f.Add(msg)
	f.Fuzz(func(t *testing.T, p []byte) {
		if _, _, err := b.AnswerRekey(1, p); err == nil && !bytes.Equal(p, k.Message()) {
			t.Error("a message of somebody else was answered")
		}
		if _, err := k.Finish(p); err == nil && !bytes.Equal(p, msg) {
			t.Error("an answer of somebody else was taken")
		}
	})
}
