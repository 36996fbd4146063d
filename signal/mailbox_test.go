package signal_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"adit/signal"
	"adit/signal/rendezvous"
)

// TestMailbox: two sides leave each other letters at a real rendezvous, which is away for a while.
func TestMailbox(t *testing.T) {
	server := rendezvous.New(rendezvous.Config{})
	defer server.Close()
	var away atomic.Bool
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			http.Error(w, "", http.StatusBadGateway)
			return
		}
		server.Handler().ServeHTTP(w, r)
	}))
	defer web.Close()
	defer web.CloseClientConnections()
	client := &signal.Client{URL: web.URL}
	id := [16]byte{7: 1}
	var box [2]*signal.Mailbox
	for i := range box {
		var err error
		if box[i], err = client.Mailbox(id, i); err != nil {
			t.Fatal(err)
		}
		defer box[i].Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i, text := range []string{"one", "two", "three"} {
		from, to := box[i%2], box[1-i%2]
		if i == 2 {
			away.Store(true)
			time.AfterFunc(300*time.Millisecond, func() { away.Store(false) })
		}
		got := make(chan string)
		go func() {
			b, err := to.Next(ctx)
			if err != nil {
				t.Error(err)
			}
			got <- string(b)
		}()
		if err := from.Put(ctx, uint64(i+1), []byte(text)); err != nil {
			t.Fatal(err)
		}
		if s := <-got; s != text {
			t.Errorf("got %q, want %q", s, text)
		}
	}
	if err := box[0].Put(ctx, 9, make([]byte, signal.MaxLetter+1)); !errors.Is(err, signal.ErrTooLong) {
		t.Errorf("a letter too long: %v", err)
	}
	enough := errors.New("enough")
	short, stop := context.WithTimeoutCause(ctx, 50*time.Millisecond, enough)
	defer stop()
	if _, err := box[0].Next(short); !errors.Is(err, enough) {
		t.Errorf("Next: %v, want the cause", err)
	}
}
