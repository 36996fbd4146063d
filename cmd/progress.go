package cmd

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"adit/internal/peer"
	"adit/internal/typeset"
)

// meterEvery is how often the status line shows what flows.
const meterEvery = time.Second

// measureWith makes meter say what the status line shows while the path is up.
func (u *ui) measureWith(meter func(time.Time) []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.meter = meter
	if u.moving {
		u.meterLocked()
	}
}

// meterLocked shows what the meter says, now and again from time to time, until another status is shown.
func (u *ui) meterLocked() {
	if !u.redraw || u.json || u.log != nil {
		return
	}
	u.moving = true
	if u.meter == nil {
		u.statusLocked()
		return
	}
	u.statusLocked(u.meter(time.Now())...)
	if u.later == nil {
		u.later = time.AfterFunc(meterEvery, u.meterAgain)
	}
}

func (u *ui) meterAgain() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.later == nil {
		return
	}
	u.later = nil
	if u.moving {
		u.meterLocked()
	}
}

// A speed follows a counter.
type speed struct {
	at        time.Time
	count     uint64
	perSecond float64
}

// see takes in the counter's value, and returns how much it grew in a second: over the last seconds, so that it can be
// read.
func (r *speed) see(now time.Time, count uint64) float64 {
	const weight = 3 * time.Second // of what was before
	d := now.Sub(r.at)
	switch {
	case r.at.IsZero():
	case d < 50*time.Millisecond:
		return r.perSecond
	default:
		fresh := float64(count-min(r.count, count)) / d.Seconds()
		share := min(1, d.Seconds()/weight.Seconds())
		if r.perSecond == 0 {
			share = 1
		}
		r.perSecond += share * (fresh - r.perSecond)
	}
	r.at, r.count = now, count
	return r.perSecond
}

// sessionMeter says what a session does: the path, rates and sums where bytes flow, streams, and since when.
func sessionMeter(stats func() peer.Stats) func(time.Time) []string {
	var up, down speed
	return func(now time.Time) []string {
		s := stats()
		sent, received := up.see(now, s.Link.SentBytes), down.see(now, s.Link.ReceivedBytes)
		parts := []string{fmt.Sprintf("up · %s, %s", s.Path.Kind, typeset.Milliseconds(inMilliseconds(s.Link.RTT)))}
		if s.Streams > 0 {
			parts = append(parts, fmt.Sprintf("↑ %s/s ↓ %s/s", typeset.Bytes(uint64(sent)), typeset.Bytes(uint64(received))),
				fmt.Sprintf("%s sent, %s received", typeset.Bytes(s.Link.SentBytes), typeset.Bytes(s.Link.ReceivedBytes)),
				typeset.Counted(uint64(s.Streams), "stream"))
		}
		return append(parts, "since "+s.Since.Format("15:04:05"))
	}
}

// A transfer counts the bytes that a command takes from its input and gives to its output.
type transfer struct {
	began    time.Time
	size     uint64 // of the input; 0 if nobody knows
	sent     atomic.Uint64
	received atomic.Uint64
	first    func() // called before the first byte goes to the output; may be nil
}

// counting wraps the input and the output of a transfer.
func (t *transfer) counting(in io.Reader, out io.Writer) (io.Reader, io.Writer) {
	return countedReader{in, t}, countedWriter{out, t}
}

type countedReader struct {
	io.Reader
	t *transfer
}

func (r countedReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.t.sent.Add(uint64(n))
	return n, err
}

type countedWriter struct {
	io.Writer
	t *transfer
}

func (w countedWriter) Write(b []byte) (int, error) {
	if w.t.first != nil && w.t.received.Load() == 0 {
		w.t.first()
	}
	n, err := w.Writer.Write(b)
	w.t.received.Add(uint64(n))
	return n, err
}

// meter says how far a transfer is: bytes, rate, and where the size is known the share and the time that is left.
func (t *transfer) meter(path func() string) func(time.Time) []string {
	var up, down speed
	return func(now time.Time) []string {
		var parts []string
		sent, received := t.sent.Load(), t.received.Load()
		sending, receiving := up.see(now, sent), down.see(now, received)
		switch {
		case t.size > 0 && sent <= t.size:
			parts = append(parts, fmt.Sprintf("sent %s of %s (%d %%)", typeset.Bytes(sent), typeset.Bytes(t.size), sent*100/t.size), typeset.Bytes(uint64(sending))+"/s")
			if sending > 0 && sent < t.size {
				parts = append(parts, typeset.Age(time.Duration(float64(t.size-sent)/sending*float64(time.Second)))+" left")
			}
		case sent > 0:
			parts = append(parts, "sent "+typeset.Bytes(sent), typeset.Bytes(uint64(sending))+"/s")
		}
		if received > 0 {
			parts = append(parts, "received "+typeset.Bytes(received), typeset.Bytes(uint64(receiving))+"/s")
		}
		if len(parts) == 0 {
			parts = append(parts, "connected, nothing sent yet")
		}
		return append(parts, path())
	}
}

// summary says what became of a transfer.
func (t *transfer) summary(now time.Time, path string) string {
	took := now.Sub(t.began)
	one := func(word string, n uint64) string {
		s := word + " " + typeset.Bytes(n)
		if n > 0 && took > 0 {
			s += fmt.Sprintf(" (%s/s)", typeset.Bytes(uint64(float64(n)/took.Seconds())))
		}
		return s
	}
	s := fmt.Sprintf("%s, %s in %s", one("sent", t.sent.Load()), one("received", t.received.Load()), took.Round(10*time.Millisecond))
	if path != "" {
		s += "; " + path
	}
	return s
}

// pathOf names the path of a session and its round trip.
func pathOf(s *peer.Session) string {
	st := s.Stats()
	kind := st.Path.Kind
	if st.Transport != "" {
		kind += " over " + st.Transport
	}
	return fmt.Sprintf("%s, %s", kind, typeset.Milliseconds(inMilliseconds(st.Link.RTT)))
}
