package outbox

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlow: what does not fit is dropped whole, and Close waits a second for a connection that takes nothing.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		aborted := false
		o := New(10, func([]byte) error { <-stuck; return errors.New("closed") }, func() {
			if !aborted {
				aborted = true
				close(stuck)
			}
		})
		_, _ = o.Write([]byte("first")) // taken at once, and stuck
		synctest.Wait()
		for _, c := range []struct {
			b    string
			want error
		}{{"1234567", nil}, {"four", ErrFull}, {"abc", nil}, {"d", ErrFull}} {
			if n, err := o.Write([]byte(c.b)); err != c.want || (n == len(c.b)) != (err == nil) {
				t.Errorf("%q: %d, %v; want %v", c.b, n, err, c.want)
			}
		}
		began := time.Now()
		o.Close()
		if d := time.Since(began); d != flushFor || !aborted {
			t.Errorf("closed after %v, aborted %v", d, aborted)
		}
		if _, err := o.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// TestFlush: what is queued goes out before Close returns.
func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []byte
		o := New(100, func(b []byte) error {
			time.Sleep(flushFor / 10) // in a bubble: a slow connection
			got = append(got, b...)
			return nil
		}, func() { t.Error("aborted") })
		for _, s := range []string{"a", "bc", "def"} {
			if _, err := o.Write([]byte(s)); err != nil {
				t.Error(err)
			}
		}
		o.Close()
		if string(got) != "abcdef" {
			t.Errorf("got %q", got)
		}
	})
}
