package peer

import (
	"errors"
	"testing"

	"adit/internal/event"
	"adit/internal/handshake"
)

// A session that one side dismisses ends at both, which say why, and others go on.
func TestDismiss(t *testing.T) {
	t.Parallel()
	home, away, other := handshake.NewKeyPair(), handshake.NewKeyPair(), handshake.NewKeyPair()
	url := meetingPlace(t)
	h := listen(t, home, map[[32]byte]string{away.Public: "laptop", other.Public: "other"}, nil, url)
	x := dial(t.Context(), to(away, home, url))
	theirs := h.accept(t)
	mine := x.session(t)
	defer mine.Close()
	y := dial(t.Context(), to(other, home, url))
	stays := h.accept(t)
	peer := y.session(t)
	defer peer.Close()

	go func() { // as who serves it does when it hears of the end: the reason is the first one's
		<-theirs.link.Done()
		theirs.Close()
	}()
	theirs.Dismiss()
	if err := theirs.Wait(); err != nil {
		t.Errorf("the side that dismissed: %v", err)
	}
	var e *Error
	if err := mine.Wait(); !errors.Is(err, ErrUnknown) || !errors.As(err, &e) || e.Class != ClassAuth {
		t.Errorf("the side that was dismissed: %v, want ErrUnknown", err)
	}
	if got := h.event(t, event.Closed); got.Peer != "laptop" || got.Message == "" {
		t.Errorf("got %+v, want the name and the reason", got)
	}
	exchange(t, peer, stays)
}
