package tunnel

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
)

// A twoWay reads from one place and writes to another, so that its input can end alone.
type twoWay struct {
	net.Conn
	in *io.PipeReader
}

func (c twoWay) Read(b []byte) (int, error) { return c.in.Read(b) }
func (c twoWay) CloseWrite() error          { return nil }
func (c twoWay) Close() error               { _ = c.in.Close(); return c.Conn.Close() }

// A stoppedStream is one whose peer has said that it reads no more.
type stoppedStream struct{ *fakeStream }

func (stoppedStream) CloseWrite() error { return errFakeReset }

// A connection whose output the peer does not want any more may end it: what the peer has sent still arrives.
func TestJoinEndsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newSessions(t)
		st, err := a.Open(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		far, err := b.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c, x := net.Pipe()
		in, out := io.Pipe()
		done := make(chan error, 1)
		go func() {
			_, _, err := join(t.Context(), twoWay{c, in}, stoppedStream{st.(*fakeStream)}, nil)
			done <- err
		}()
		if _, err := far.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		_ = out.Close() // never fails
		synctest.Wait()
		if err := far.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(x); err != nil || string(got) != "last words" {
			t.Errorf("got %q, %v", got, err)
		}
		if err := <-done; !is[stoppedError](err) {
			t.Errorf("join: %v, want what the stream said", err)
		}
		_ = x.Close() // never fails
	})
}
