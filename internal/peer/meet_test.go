package peer

import (
	"testing"

	"adit/internal/event"
	"adit/internal/handshake"
	"adit/signal"
)

// Who has pasted the offer leaves when the path is up, and before its commitment is opened.
func TestPasteLeftBeforeReveal(t *testing.T) {
	offerOut, offerIn, answerOut, answerIn := relay(same, same)
	defer offerIn.Close()
	defer answerIn.Close()
	b := dial(t.Context(), Config{Role: Connecter, Signal: "paste", Paste: signal.PasteConfig{In: offerOut, Out: answerIn}})
	cfg := Config{Loopback: true, Logger: discard}
	ch := signal.NewPaste(signal.PasteConfig{In: answerOut, Out: offerIn, Expect: signal.KindAnswer})
	defer ch.Close()
	end, err := open(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	if err := end.settleAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	noise, err := handshake.NewInitiator(handshake.Config{Mode: handshake.ModePaste})
	if err != nil {
		t.Fatal(err)
	}
	offer, err := noise.Offer(marshal(end.description(nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := send(t.Context(), ch, signal.KindOffer, offer); err != nil {
		t.Fatal(err)
	}
	m, err := receive(t.Context(), ch, signal.KindAnswer)
	if err != nil {
		t.Fatal(err)
	}
	payload, keys, err := noise.Finish(m.Body)
	if err != nil {
		t.Fatal(err)
	}
	remote, err := signal.ParseDescription(payload)
	if err != nil {
		t.Fatal(err)
	}
	if err := end.check(remote, keys, true, false); err != nil {
		t.Fatal(err)
	}
	if _, err := end.connect(t.Context(), checkFor); err != nil {
		t.Fatal(err)
	}
	b.event(t, event.Up)
	end.Close()
	if got := b.class(t); got != ClassGone {
		t.Errorf("%v of class %d, want %d", b.err, got, ClassGone)
	}
}
