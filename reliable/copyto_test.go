package reliable

import (
	"net"
	"testing"
)

// A wrapped connection is written to by a method of its own; the one it embeds has none.
type wrapped struct {
	*net.TCPConn
	got []byte
}

func (w *wrapped) Write(b []byte) (int, error) {
	w.got = append(w.got, b...)
	return len(b), nil
}

// What a type does with what is written to it is not passed by, even if it embeds a socket.
func TestCopyToWrapped(t *testing.T) {
	a, b := newSessions(t, &wire{}, &wire{})
	from, to := newStreams(t, a, b)
	if _, err := from.Write([]byte("some words")); err != nil {
		t.Fatal(err)
	}
	if err := from.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	w := new(wrapped)
	if n, readErr, writeErr := to.CopyTo(w); n != 10 || readErr != nil || writeErr != nil || string(w.got) != "some words" {
		t.Errorf("got %d bytes, %v, %v: %q", n, readErr, writeErr, w.got)
	}
}
