package congestion

import (
	"math"
	"testing"
	"time"
)

// A report that cannot be true changes nothing.
func TestReportLies(t *testing.T) {
	s := NewSender[int](nil)
	s.Reset(time.Millisecond, 0)
	for i := range uint64(10) {
		s.Sent(i+1, 1000, time.Duration(i))
	}
	if !s.Report(Report{Highest: 5, Packets: 4, Bytes: 4000}, time.Millisecond) {
		t.Fatal("a true report was refused")
	}
	before := s.inFlight()
	for _, f := range []Report{
		{}, {Highest: 11, Packets: 5, Bytes: 5000}, {Highest: math.MaxUint64, Packets: 5, Bytes: 5000},
		{Highest: 4, Packets: 4, Bytes: 4000}, {Highest: 6, Packets: 3, Bytes: 5000}, {Highest: 6, Packets: 5, Bytes: 3000},
		{Highest: 6, Packets: 7, Bytes: 5000}, {Highest: 6, Packets: 5, Bytes: 7000}, {Highest: 6, Packets: math.MaxUint64, Bytes: math.MaxUint64},
	} {
		if s.Report(f, time.Second) || s.Acked() != 5 || s.inFlight() != before {
			t.Errorf("report %+v believed", f)
		}
	}
	if before != 5000 || s.Lost() != 1 {
		t.Errorf("%v in flight and %d lost, want 5000 and 1", before, s.Lost())
	}
}

func TestLedgerGrows(t *testing.T) {
	var d ledger[int]
	const n = 5000
	for i := range uint64(n) {
		d.sent(2*i+1, 10, 1)
	}
	for _, i := range []uint64{0, 1, 1000, n - 1} {
		if got := d.at(2*i + 1); got == nil || got.packets != i+1 || got.bytes != 10*(i+1) {
			t.Errorf("record of packet %d: %+v", i, got)
		}
	}
	for i := range uint64(3 * mostRecords) {
		d.sent(2*n+i, 1, 1)
	}
	if len(d.ring) != mostRecords {
		t.Errorf("%d records kept, want %d", len(d.ring), mostRecords)
	}
	if d.at(1) != nil {
		t.Error("found a record that is overwritten")
	}
}

// What was sent over the path before tells nothing of the new one.
func TestResetForgetsPath(t *testing.T) {
	c := NewSender[int](nil)
	c.Reset(5*time.Millisecond, 1)
	for n := range uint64(10) {
		c.Sent(n+1, 1200, time.Second+time.Duration(n)*time.Millisecond)
	}
	const moved = time.Second + 10*time.Millisecond
	c.Reset(60*time.Millisecond, moved)
	send := func(from, to uint64) {
		for n := from; n < to; n++ {
			c.Sent(n+11, 1200, moved+time.Duration(n)*time.Millisecond)
		}
	}
	send(0, 5)
	f := Report{Highest: 10, Packets: 10, Bytes: 12000}
	if !c.Report(f, moved+5*time.Millisecond) {
		t.Fatal("the feedback is not believed")
	}
	if s := c.State(); s.MinRTT != 60*time.Millisecond || s.Rate > 0 {
		t.Errorf("round trip %v and %.0f bytes/s after packets of the old path, want 60 ms and 0", s.MinRTT, s.Rate)
	}
	send(5, 10)
	f = Report{Highest: 20, Packets: 20, Bytes: 24000}
	if !c.Report(f, moved+9*time.Millisecond+60*time.Millisecond) {
		t.Fatal("the feedback is not believed")
	}
	if s, most := c.State(), 10*1200/0.06; s.MinRTT != 60*time.Millisecond || s.Rate == 0 || s.Rate > most {
		t.Errorf("round trip %v and %.0f bytes/s, want 60 ms and at most %.0f", s.MinRTT, s.Rate, most)
	}
}
