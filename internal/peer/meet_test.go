package peer

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"adit/internal/event"
	"adit/internal/handshake"
	"adit/internal/relay"
	"adit/signal"
)

// Who has pasted the offer leaves when the path is up, and before its commitment is opened.
func TestPasteLeftBeforeReveal(t *testing.T) {
	offerOut, offerIn, answerOut, answerIn := linked(same, same)
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
	if err := end.settleAll(t.Context(), nil); err != nil {
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

// The clock of one side is slow: what it sends to a room has expired by the other's.
func TestReceiveGoesByNoClock(t *testing.T) {
	url := meetingPlace(t)
	client := &signal.Client{URL: url}
	a, err := client.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := client.Join(t.Context(), a.Nameplate())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	late := signal.Message{Kind: signal.KindOffer, Expires: time.Now().Add(-time.Hour), Body: []byte("offer")}
	if err := a.Send(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	if _, err := receive(t.Context(), b, signal.KindOffer); err != nil {
		t.Errorf("receive: %v", err)
	}
}

// Who meets by a line names its relay in it: nothing can follow.
func TestPasteNamesRelay(t *testing.T) {
	server, err := relay.NewTURN(relay.TURNConfig{Secret: []byte("0123456789abcdef0123456789abcdef"), Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l) // it ends with the listener
	}()
	defer func() { l.Close(); <-served }()
	user := strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10) + ":a"
	turn := signal.TURNServer{URL: "turn:" + l.Addr().String() + "?transport=tcp", Username: user,
		Password: relay.Password([]byte("0123456789abcdef0123456789abcdef"), user)}

	offerOut, offerIn, answerOut, answerIn := linked(same, same)
	defer offerIn.Close()
	defer answerIn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	a := dial(ctx, Config{Role: Exposer, Signal: "paste", Path: PathRelay, TURN: []signal.TURNServer{turn},
		Paste: signal.PasteConfig{In: answerOut, Out: offerIn}})
	defer func() { cancel(); <-a.done }()
	ch := signal.NewPaste(signal.PasteConfig{In: offerOut, Out: answerIn, Expect: signal.KindOffer})
	defer ch.Close()
	m, err := receive(t.Context(), ch, signal.KindOffer)
	if err != nil {
		t.Fatal(err)
	}
	noise, err := handshake.NewResponder(handshake.Config{Mode: handshake.ModePaste})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := noise.Open(m.Body)
	if err != nil {
		t.Fatal(err)
	}
	d, err := signal.ParseDescription(payload)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Candidates) != 1 || d.Candidates[0].Type != signal.Relay {
		t.Errorf("the line names %v, want one address on a relay", d.Candidates)
	}
}
