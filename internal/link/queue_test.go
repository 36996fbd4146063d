// In package link: this file drives the scheduler by hand, and looks at its bounds.

package link

import (
	"testing"
	"time"
)

func TestScheduler(t *testing.T) {
	var s scheduler
	payload := func(flow uint32, n int) []byte { p := make([]byte, n); p[0] = byte(flow); return p }
	push := func(flow uint32, n int) {
		t.Helper()
		if !s.push(flow, 0, payload(flow, n), flowBytes) {
			t.Fatal("push refused")
		}
	}
	for range 100 {
		push(1, 1200)
		for range 4 {
			push(2, 300)
		}
	}
	sum := make(map[byte]int)
	take := func() byte {
		p := s.pop(0)
		if p == nil {
			return 255
		}
		flow := p.b[0]
		sum[flow] += p.n
		s.release(p)
		return flow
	}
	for range 100 {
		take()
	}
	if d := sum[1] - sum[2]; d < -2*quantumBytes || d > 2*quantumBytes {
		t.Errorf("flows sent %d and %d bytes", sum[1], sum[2])
	}
	push(3, 1200)
	push(0, 100)
	if f := take(); f != 0 {
		t.Errorf("flow %d before flow 0", f)
	}
	if f := take(); f != 3 {
		t.Errorf("flow %d before a new flow", f)
	}
	push(3, 100) // not new again
	for range 2 {
		take()
	}
	last := byte(0)
	for s.bytes > 0 {
		last = take()
	}
	if last == 3 || take() != 255 {
		t.Errorf("flow %d last", last)
	}
	if s.bytes != 0 || len(s.flows) != 3 {
		t.Errorf("%d bytes, %d flows", s.bytes, len(s.flows))
	}
	if s.heavy != 2 || s.active(1) != 2 || s.active(9) != 3 {
		t.Errorf("%d heavy flows, %d with 1, %d with 9", s.heavy, s.active(1), s.active(9))
	}
	for now := time.Duration(1); s.tick(now) != 0; now += epochTime {
		if now > 10*epochTime {
			t.Fatal("idle flows are remembered")
		}
	}
	if s.flows != nil || s.heavy != 0 || s.free != nil {
		t.Error("an empty scheduler keeps something")
	}
}

// On a fast path a turn is long, so that what arrives together belongs to few flows. A new flow does not
// wait for the end of a turn.
func TestSchedulerTurns(t *testing.T) {
	s := scheduler{quantum: 10 * 1200}
	p := make([]byte, 1200)
	push := func(flow uint32) {
		t.Helper()
		if p[0] = byte(flow); !s.push(flow, 0, p, flowBytes) {
			t.Fatal("push refused")
		}
	}
	take := func() byte {
		k := s.pop(0)
		defer s.release(k)
		return k.b[0]
	}
	for range 60 {
		push(1)
		push(2)
	}
	for range 20 { // the first turns are short
		take()
	}
	turns, n, last := 0, 0, byte(0)
	for range 80 {
		f := take()
		if f != last {
			if turns++; turns > 2 && n != 10 {
				t.Errorf("a turn of %d packets", n)
			}
			n, last = 0, f
		}
		n++
	}
	push(3)
	if f := take(); f != 3 {
		t.Errorf("flow %d before a new one", f)
	}
}

// Fresh payloads are bounded by their number, those of a flow and all of them, and dropped when they are late.
func TestFreshBounds(t *testing.T) {
	var s scheduler
	s.patience = time.Second
	one := []byte{1}
	for id := uint32(1); id <= 9; id++ {
		n := 0
		for s.pushFresh(id, one, flowBytes, time.Duration(id)) {
			n++
		}
		if want := freshPackets; id <= 8 && n != want || id == 9 && n != 0 {
			t.Fatalf("flow %d queues %d", id, n)
		}
	}
	n := 0
	for p := s.pop(time.Second + 4); p != nil; p = s.pop(time.Second + 4) {
		if p.flow.id < 4 {
			t.Fatal("a late one leaves")
		}
		n++
		s.release(p)
	}
	if n != 5*freshPackets || s.freshes != 0 || s.bytes != 0 || s.dropped != 3*freshPackets+9 {
		t.Errorf("%d left, %d are there, %d bytes, %d were dropped", n, s.freshes, s.bytes, s.dropped)
	}
	if !s.pushFresh(9, one, flowBytes, 0) {
		t.Error("there is room again")
	}
}

func TestQueueBounds(t *testing.T) {
	t.Parallel()
	var s scheduler
	p := make([]byte, mtuBytes)
	n := 0
	for s.push(1, 0, p, flowBytes) {
		n += len(p)
	}
	if n > flowBytes || n < flowBytes-mtuBytes {
		t.Errorf("a flow queues %d bytes, want %d", n, flowBytes)
	}
	if !s.push(2, 0, p, flowBytes) {
		t.Error("a full flow stops another")
	}
	for flow := uint32(3); flow < 5000; flow++ {
		for s.push(flow, 0, p, flowBytes) {
		}
	}
	if s.bytes > totalBytes || s.bytes < totalLow {
		t.Errorf("%d bytes queued in all", s.bytes)
	}
	if len(s.flows) > 5000 {
		t.Errorf("%d flows", len(s.flows))
	}
	if s.dropped == 0 {
		t.Error("nothing counted as dropped")
	}
}
