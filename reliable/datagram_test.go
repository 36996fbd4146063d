// In package reliable: this file gives the inbox fragments that no Send makes, and looks at its bounds.

package reliable

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"testing"
	"time"
)

func TestDatagrams(t *testing.T) {
	a, b := newSessions(t, new(wire), new(wire))
	from, to := newStreams(t, a, b)
	from.AcceptDatagrams()
	to.AcceptDatagrams()
	buf := make([]byte, 10)
	for _, n := range []int{0, 1, 1000, 1200 - wholeHeader, 1200 - wholeHeader + 1, 2380, 2381, 9000, 65507, MaxDatagram} {
		for _, ends := range [][2]*Stream{{from, to}, {to, from}} {
			want := data(n, uint64(n))
			if !ends[0].SendDatagram(want) {
				t.Fatalf("%d bytes were not sent", n)
			}
			var got []byte
			if err := ends[1].NextDatagram(func(p []byte) { got = slices.Clone(p) }); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %d bytes, %v, want the same %d", len(got), err, n)
			}
		}
	}
	if from.SendDatagram(make([]byte, MaxDatagram+1)) {
		t.Error("one that is too large was sent")
	}
	// The stream is as it was.
	if _, err := from.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if n, err := to.Read(buf); n != 1 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
}

func TestDatagramsEnd(t *testing.T) {
	a, b := newSessions(t, new(wire), new(wire))
	from, to := newStreams(t, a, b)
	to.AcceptDatagrams()
	read := func() <-chan error {
		done := make(chan error, 1)
		go func() {
			done <- to.NextDatagram(func([]byte) { t.Error("a datagram from nowhere") })
		}()
		return done
	}
	done := read()
	_ = from.Reset(7)
	var reset *StreamError
	if err := <-done; !errors.As(err, &reset) || reset.Code != 7 {
		t.Errorf("got %v, want the reset", err)
	}
	if from.SendDatagram([]byte("x")) {
		t.Error("sent after the end")
	}

	from, to = newStreams(t, a, b)
	to.AcceptDatagrams()
	done = read()
	_ = to.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
	_ = from.Close()
}

// What nobody reads is bounded, and given back at the end.
func TestDatagramsBounded(t *testing.T) {
	a, b := newSessions(t, new(wire), new(wire), Config{}, Config{Budget: NewBudget(32 << 20)})
	var tos []*Stream
	for range 40 {
		from, to := newStreams(t, a, b)
		from.SendDatagram(make([]byte, 100)) // nobody has asked for them: dropped
		tos = append(tos, to)
		to.AcceptDatagrams()
		for range 2 * flowDatagrams / smallDatagram {
			from.SendDatagram(make([]byte, 100))
		}
	}
	waitFor(t, func() bool { return b.account.used.Load() > 14<<20 })
	if n := b.account.used.Load(); n > 18<<20 {
		t.Errorf("one session holds %d bytes of a budget of 32 MiB, want about half at most", n)
	}
	tos[0].inbox.Load().mu.Lock()
	if n := tos[0].inbox.Load().bytes; n > flowDatagrams {
		t.Errorf("one stream holds %d bytes, want %d at most", n, flowDatagrams)
	}
	tos[0].inbox.Load().mu.Unlock()
	for _, st := range tos {
		_ = st.Close()
	}
	if n := b.account.used.Load(); n > 40*leastStream { // the peer has not closed its ends
		t.Errorf("%d bytes are held after the end", n)
	}
}

func TestReassembly(t *testing.T) {
	var d datagrams
	now := time.Now()
	const size = 5000
	whole := data(size, 3)
	step := ceil(size, 5)
	part := func(id uint16, i int) fragment {
		return fragment{flow: 1, parts: 5, part: i, id: id, size: size, data: whole[i*step : min(size, (i+1)*step)]}
	}
	check := func(got *datagramBuffer) {
		t.Helper()
		if got == nil || !bytes.Equal(got.b[:got.n], whole) {
			t.Fatal("it is not whole")
		}
		got.release()
	}
	for _, order := range [][]int{{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, {2, 2, 4, 0, 4, 1, 3}} {
		for k, i := range order {
			got := d.join(part(9, i), now)
			if k == len(order)-1 {
				check(got)
			} else if got != nil {
				t.Fatalf("whole after %v", order[:k+1])
			}
		}
	}
	// A part that comes too late does not complete it, and many others push it out.
	for i := range 4 {
		d.join(part(1, i), now)
	}
	if d.join(part(1, 4), now.Add(partialFor+1)) != nil {
		t.Error("whole after its time")
	}
	for id := range uint16(mostPartials + 1) {
		now = now.Add(time.Millisecond)
		d.join(part(100+id, 0), now)
	}
	for i := 1; i < 5; i++ {
		if d.join(part(100, i), now) != nil {
			t.Error("the oldest was kept")
		}
	}
	d.forget(1)
	for _, p := range d.partials {
		if p.into != nil {
			t.Error("something is left")
		}
	}
}

func TestDatagramAllocates(t *testing.T) {
	s := &Session{streams: map[uint32]*Stream{}, link: discardLink{}, account: account{budget: NewBudget(0)}}
	st := &Stream{session: s, id: 1, done: make(chan struct{}), readStop: make(chan struct{})}
	s.streams[1] = st
	st.AcceptDatagrams()
	p := binary.LittleEndian.AppendUint32(nil, 1|datagramBit)
	p = append(append(p, 1), data(1000, 1)...)
	buf, big := make([]byte, 2000), make([]byte, 20000)
	use := func([]byte) {}
	if n := testing.AllocsPerRun(200, func() {
		s.deliverDatagram(p)
		_ = st.NextDatagram(use)
		st.SendDatagram(buf[:1000])
		st.SendDatagram(big)
	}); n > 0.1 {
		t.Errorf("%v allocations for each datagram, want 0", n)
	}
}

type discardLink struct{ Link }

func (discardLink) MTU() int                      { return 1200 }
func (discardLink) SendFresh(uint32, []byte) bool { return true }

func FuzzFragment(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0x80, 1, 'x'})
	f.Add(append([]byte{1, 0, 0, 0x80, 2, 1, 0, 7, 0, 3}, 'x'))
	f.Fuzz(func(t *testing.T, p []byte) {
		if !isDatagram(p) {
			return
		}
		g, ok := parseFragment(slices.Clone(p))
		if !ok {
			return
		}
		var q []byte
		q = binary.LittleEndian.AppendUint32(q, g.flow)
		q = append(q, byte(g.parts))
		if g.parts > 1 {
			q = append(q, byte(g.part))
			q = binary.BigEndian.AppendUint16(q, g.id)
			q = binary.BigEndian.AppendUint16(q, uint16(g.size))
			var d datagrams
			if d.join(g, time.Now()) != nil {
				t.Fatal("one part is a whole")
			}
		}
		if q = append(q, g.data...); !bytes.Equal(p, q) {
			t.Errorf("got %x again, want %x", q, p)
		}
	})
}

// However little is left of the budget, one small datagram of a stream has room.
func TestDatagramWithoutRoom(t *testing.T) {
	mem := &account{budget: NewBudget(1)}
	i := &inbox{open: true, came: make(chan struct{}, 1)}
	for n, want := range []bool{true, false} {
		if got := i.put(takeDatagram(100), mem); got != want {
			t.Errorf("datagram %d: %v, want %v", n, got, want)
		}
	}
	i.close(mem)
	if i.put(takeDatagram(100), mem) || mem.budget.Used() != 0 {
		t.Errorf("it takes one when it is closed, or %d bytes are left", mem.budget.Used())
	}
}
