// In package reliable: this file looks at when a conversation sends again, which its peer cannot tell from
// loss.

package reliable

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	kcp "github.com/xtaci/kcp-go/v5"
)

// flush means what it is used for: it sends at once and again when the time is out, and says when.
func TestFlush(t *testing.T) {
	var sizes []int
	k := kcp.NewKCP(1, func(_ []byte, n int) { sizes = append(sizes, n) })
	k.NoDelay(1, 300, 0, 1)
	k.Send([]byte("hello"))
	if next := flush(k, kcp.IKCP_FLUSH_FULL); next < 100 || next > 300 {
		t.Errorf("wanted again after %d ms, want kcp's first timeout of 200 ms", next)
	}
	flush(k, kcp.IKCP_FLUSH_FULL)
	if len(sizes) != 1 || sizes[0] != kcp.IKCP_OVERHEAD+5 {
		t.Errorf("got packets of %v bytes, want one of %d", sizes, kcp.IKCP_OVERHEAD+5)
	}
}

// What the link refused comes again after KCP's timeout, and only that: not what the peer reported, nor
// what an acknowledgement in order passes, which kcp might take for a hint that others are lost.
func TestRefusedIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := func() *wire { return &wire{delay: 10 * time.Millisecond, loss: 0.01, broken: true} }
		ab := w()
		a, b := newSessions(t, ab, w())
		from, to := newStreams(t, a, b)
		p := data(1<<20, 8)
		before := kcp.DefaultSnmp.Copy()
		var wg sync.WaitGroup
		sends(t, &wg, from, p)
		receives(t, &wg, to, p)
		wg.Wait()
		if after := kcp.DefaultSnmp.Copy(); after.EarlyRetransSegs != before.EarlyRetransSegs || after.FastRetransSegs != before.FastRetransSegs {
			t.Errorf("kcp sent segments again before their time was out")
		}
		if sent, most := ab.bytes.Load(), int64(len(p)+len(p)/8); sent > most {
			t.Errorf("sent %d bytes for %d, want at most %d", sent, len(p), most)
		}
	})
}

// A sender goes on by itself when nothing comes back: its timeout grows, and what the peer reported is
// left out.
func TestTimeout(t *testing.T) {
	l := &recorder{rtt: 40 * time.Millisecond, pending: 1}
	c, _ := newReceiver(l)
	defer c.close()
	const segments = 10
	c.write(make([]byte, segments*(1200-kcp.IKCP_OVERHEAD)))
	sent := l.take()
	if len(sent) != segments {
		t.Fatalf("got %d packets, want %d", len(sent), segments)
	}
	for _, sn := range []uint32{2, 4, 9, 4, 11, 1 << 31} {
		c.deliver(appendHeader(nil, 1, kcp.IKCP_CMD_ACK, header(sent[0]).ts(), sn, 1))
	}
	start := time.Now()
	waitFor(t, func() bool { c.look(time.Now()); return len(l.sent) > 0 })
	if took := time.Since(start); took < 180*time.Millisecond { // kcp's first timeout is 200 ms
		t.Errorf("segments were sent again after %v", took)
	}
	var got []uint32
	for _, p := range l.take() {
		got = append(got, header(p).sn())
	}
	if want := []uint32{1, 3, 5, 6, 7, 8}; !slices.Equal(got, want) {
		t.Errorf("segments %v were sent again, want %v", got, want)
	}
	c.deliver(appendHeader(nil, 1, kcp.IKCP_CMD_ACK, header(sent[0]).ts(), segments-1, segments))
	if c.look(time.Now()) || c.out.reported.n > 0 {
		t.Errorf("there is something on its way, and %d segments are remembered", c.out.reported.n)
	}
}

// Where the link says that the peer has all, and the peer does not say so, it is asked, and answers.
func TestAskForAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, lp := &recorder{rtt: 40 * time.Millisecond}, &recorder{rtt: 40 * time.Millisecond}
		c, _ := newReceiver(l)
		defer c.close()
		peer, got := newReceiver(lp)
		defer peer.close()
		answers := func() (all [][]byte) {
			time.Sleep(100 * time.Millisecond) // the acknowledgement's delay
			return lp.take()
		}
		write := func(text string) {
			c.write([]byte(text))
			for _, p := range l.take() {
				peer.deliver(p)
			}
		}
		ask := func(d time.Duration) [][]byte {
			for began := time.Now(); time.Since(began) < d; {
				time.Sleep(governorTick)
				c.look(time.Now())
			}
			return l.take()
		}
		write("first")
		for _, p := range answers() {
			c.deliver(p)
		}
		write("second")
		if answers(); string(*got) != "firstsecond" {
			t.Fatalf("the peer has %q", *got)
		}

		l.pending = 1 // the link still repairs
		if sent := ask(askAfter / 2); len(sent) > 0 {
			t.Errorf("asked %d times while the link repairs", len(sent))
		}
		l.pending = 0
		ask(governorTick)
		var sent [][]byte
		c.out.due = time.Now().Add(time.Minute) // kcp is patient
		if sent = ask(askAfter + governorTick); len(sent) != 1 {
			t.Fatalf("asked %d times, want once", len(sent))
		}
		if peer.deliver(sent[0]) {
			t.Error("the question is data to the peer")
		}
		for _, p := range answers() {
			c.deliver(p)
		}
		if c.look(time.Now()) {
			t.Error("the answer acknowledges nothing")
		}
		if string(*got) != "firstsecond" {
			t.Errorf("the peer has %q", *got)
		}
	})
}

// An acknowledgement of what was sent before an outage says nothing of the round trip: kcp's timeout stays.
func TestLateAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &recorder{rtt: 40 * time.Millisecond, pending: 1}
		c, _ := newReceiver(l)
		defer c.close()
		c.write([]byte("first"))
		ts := header(l.take()[0]).ts()
		for sn := range uint32(3) {
			c.deliver(appendHeader(nil, 1, kcp.IKCP_CMD_ACK, ts-uint32(time.Minute.Milliseconds()), sn, sn+1))
			c.write([]byte("next"))
			l.take()
		}
		began := time.Now()
		for len(l.take()) == 0 {
			time.Sleep(governorTick)
			c.look(time.Now())
		}
		if took := time.Since(began); took > 2*minTimeout {
			t.Errorf("sent again after %v, want %v or little more", took, minTimeout)
		}
	})
}

// What the peer cannot know is no news.
func TestAcknowledgementsOfNothing(t *testing.T) {
	l := new(recorder)
	c, _ := newReceiver(l)
	defer c.close()
	c.deliver(appendHeader(nil, 1, kcp.IKCP_CMD_ACK, 0, 5, 9)) // nothing was ever written
	c.write([]byte("hello"))
	for _, una := range []uint32{0, 2, 1 << 31, 1<<32 - 1} {
		c.deliver(appendHeader(nil, 1, kcp.IKCP_CMD_ACK, 0, una, una))
		if c.out.una != 0 || c.out.kcp.WaitSnd() != 1 {
			t.Errorf("after an acknowledgement of all before %d: got una %d and %d segments, want 0 and 1", una, c.out.una, c.out.kcp.WaitSnd())
		}
	}
}

// The link need not carry on with a stream that the peer reads no more.
func TestStopForgets(t *testing.T) {
	l := new(recorder)
	s := NewSession(l, Config{Initiator: true})
	defer s.Close()
	st, err := s.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write(make([]byte, 10000)); err != nil {
		t.Fatal(err)
	}
	st.handle(message{kind: msgStop, stream: st.id})
	if !slices.Equal(l.forgot, []uint32{1}) {
		t.Errorf("the link forgot flows %v, want 1", l.forgot)
	}
}

// What the link has no room for is offered again, in order and once, and is no reason for a timeout.
func TestRefusedIsOffered(t *testing.T) {
	l := &recorder{rtt: 10 * time.Millisecond}
	full := true
	l.refuse = func(key uint32) bool { return full && key > 2 }
	c, _ := newReceiver(l)
	defer c.close()
	c.write(make([]byte, 6*(1200-kcp.IKCP_OVERHEAD)))
	c.look(time.Now())
	if got := len(l.take()); got != 2 {
		t.Fatalf("got %d packets, want 2", got)
	}
	full = false
	c.look(time.Now())
	c.look(time.Now())
	var got []uint32
	for _, p := range l.take() {
		got = append(got, header(p).sn())
	}
	if want := []uint32{2, 3, 4, 5}; !slices.Equal(got, want) || c.out.refused != nil {
		t.Errorf("got segments %v, want %v", got, want)
	}
}

// What waits at the peer behind a hole does not count against the window, and does again when it is
// through.
func TestWindowOverHoles(t *testing.T) {
	l := &recorder{rtt: time.Second, window: 100 * 1200}
	c, _ := newReceiver(l)
	defer c.close()
	size := 1200 - kcp.IKCP_OVERHEAD
	c.write(make([]byte, 110*size))
	if got := len(l.take()); got != 100 {
		t.Fatalf("got %d packets, want the window of 100", got)
	}
	l.pending = 70 // the peer has 30, but not the first
	c.look(time.Now())
	c.write(make([]byte, 50*size))
	if got := len(l.take()); got != 30 || c.out.window != 130 {
		t.Errorf("got %d packets and a window of %d, want 30 and 130", got, c.out.window)
	}
	c.deliver(appendHeader(nil, 1, kcp.IKCP_CMD_ACK, 0, 30, 31))
	if got := len(l.take()); got != 1 || c.out.window != 100 {
		t.Errorf("got %d packets and a window of %d, want 1 and 100", got, c.out.window)
	}
}
