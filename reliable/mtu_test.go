// In package reliable: this file uses the link in memory of lab_test.go.

package reliable

import (
	"bytes"
	"io"
	"sync/atomic"
	"testing"
	"time"
)

// An mtuLink is a link with an MTU that changes. It counts the packets since the last one that was
// full, and since the last one that was larger.
type mtuLink struct {
	*testLink
	mtu          atomic.Int64
	full, larger atomic.Int64
}

func (l *mtuLink) MTU() int { return int(l.mtu.Load()) }

func (l *mtuLink) Send(flow, key uint32, p []byte) bool {
	l.full.Add(1)
	l.larger.Add(1)
	switch mtu := l.MTU(); {
	case len(p) > mtu:
		l.larger.Store(0)
	case len(p) == mtu:
		l.full.Store(0)
	}
	return l.testLink.Send(flow, key, p)
}

// TestMTU: packets follow the link's MTU both ways, and none of the data that was cut before is lost.
func TestMTU(t *testing.T) {
	w := &wire{delay: 5 * time.Millisecond, rate: 10e6, loss: 0.01}
	la, lb := newLinks(t, w, &wire{delay: 5 * time.Millisecond})
	l := &mtuLink{testLink: la}
	l.mtu.Store(1200)
	a, b := NewSession(l, Config{Initiator: true}), NewSession(lb, Config{})
	t.Cleanup(func() {
		a.CloseWithError(nil)
		b.CloseWithError(nil)
		a.Close()
		b.Close()
	})
	from, to := newStreams(t, a, b)
	sent := data(6<<20, 3)
	go func() {
		_, _ = from.Write(sent)
		_ = from.CloseWrite()
	}()
	var got bytes.Buffer
	for _, step := range []struct {
		mtu   int
		until int64 // bytes read
	}{{1200, 1 << 20}, {1444, 3 << 20}, {1200, 5 << 20}} {
		l.mtu.Store(int64(step.mtu))
		if _, err := io.CopyN(&got, to, step.until-int64(got.Len())); err != nil {
			t.Fatal(err)
		}
		if full, larger := l.full.Load(), l.larger.Load(); full > 20 || larger < 200 {
			t.Errorf("MTU %d: %d packets since a full one, %d since a larger one", step.mtu, full, larger)
		}
	}
	if _, err := io.Copy(&got, to); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), sent) {
		t.Errorf("got %d other bytes, want %d", got.Len(), len(sent))
	}
}
