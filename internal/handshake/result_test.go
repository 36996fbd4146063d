package handshake

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

func checkWords(t *testing.T, a, b *Result) {
	t.Helper()
	words, ok := a.Words()
	if !ok || len(words) != 4 {
		t.Fatalf("initiator's words: got %v, %v", words, ok)
	}
	for _, w := range words {
		if _, ok := wordIndex()[w]; !ok {
			t.Errorf("%q is not in the list", w)
		}
	}
	if _, ok := b.Words(); ok {
		t.Error("responder has words before Verify")
	}
	if b.Reveal() != nil {
		t.Error("responder reveals something")
	}
	if err := a.Verify(a.Reveal()); !errors.Is(err, ErrState) {
		t.Errorf("verify on the initiator: got %v, want %v", err, ErrState)
	}
	reveal := a.Reveal()
	for n := range reveal {
		bad := bytes.Clone(reveal)
		bad[n] ^= 1
		if err := b.Verify(bad); !errors.Is(err, ErrAuth) {
			t.Fatalf("byte %d changed: got %v, want %v", n, err, ErrAuth)
		}
	}
	for _, bad := range [][]byte{nil, reveal[:31], append(bytes.Clone(reveal), 0)} {
		if err := b.Verify(bad); !errors.Is(err, ErrAuth) {
			t.Errorf("%d bytes: got %v, want %v", len(bad), err, ErrAuth)
		}
	}
	if _, ok := b.Words(); ok {
		t.Error("responder has words after a bad reveal")
	}
	if err := b.Verify(reveal); err != nil {
		t.Fatal(err)
	}
	got, ok := b.Words()
	if !ok || !slices.Equal(got, words) {
		t.Errorf("words: got %v, %v, want %v", got, ok, words)
	}
}

// TestManInTheMiddle runs IX with each of the two peers. Whatever the middle does, each side's words
// depend on a nonce it could not know when it had to choose its own.
func TestManInTheMiddle(t *testing.T) {
	c := pasteConfig()
	for range 20 {
		alice, bob := newInitiator(t, c), newResponder(t, c)
		toBob, toAlice := newInitiator(t, c), newResponder(t, c)
		open(t, toAlice, offer(t, alice, "a"), "a")
		open(t, bob, offer(t, toBob, "a"), "a")
		msg, b := answer(t, bob, "b")
		m := finish(t, toBob, msg, "b")
		msg, ma := answer(t, toAlice, "b")
		a := finish(t, alice, msg, "b")

		// The middle knows Bob's words by now, and Alice's only after she reveals.
		if err := ma.Verify(a.Reveal()); err != nil {
			t.Fatal(err)
		}
		// It cannot pass her nonce on, nor any that it likes better than what it committed to.
		if err := b.Verify(a.Reveal()); !errors.Is(err, ErrAuth) {
			t.Errorf("got %v, want %v", err, ErrAuth)
		}
		if err := b.Verify(m.Reveal()); err != nil {
			t.Fatal(err)
		}
		wa, _ := a.Words()
		wb, _ := b.Words()
		if slices.Equal(wa, wb) {
			t.Fatalf("both see %v", wa)
		}
	}
}

// TestWordsVector fixes what two versions of adit must agree on; the values were computed apart from
// this code.
func TestWordsVector(t *testing.T) {
	r := &Result{knowA: true}
	for n := range 32 {
		r.Binding[n], r.nonceA[n] = byte(n), byte(100+n)
	}
	for n := range nonceBLen {
		r.nonceB[n] = byte(200 + n)
	}
	got, _ := r.Words()
	if want := []string{"craft", "solution", "secret", "defense"}; !slices.Equal(got, want) {
		t.Errorf("words: got %v, want %v", got, want)
	}
	c := commit(r.nonceA[:])
	wantHex(t, "commitment", c[:], "6ff676e3b3a92c6e69ff8dc8ef741b53af5d1f4a06bcc0bd")
}

func TestExporterPanicsOnNonsense(t *testing.T) {
	a, _ := run(t, pasteConfig(), pasteConfig())
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	a.Exporter("x", 255*32+1)
}
