package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"

	"adit/tunnel"
)

// echoes are the messages of one echo stream. One goroutine sends, one reads.
type echoes struct {
	stream tunnel.Stream

	mu      sync.Mutex
	sent    []time.Time     // when each message went
	back    []time.Duration // round trips of those that came back, which they do in order
	counts  int             // the first message whose round trip counts
	newest  report
	idle    progress      // the last before data came, on the peer's clock
	arrived progress      // the first with all that came so far
	came    chan struct{} // closed and replaced at each report
}

func newEchoes(st tunnel.Stream) *echoes {
	return &echoes{stream: st, came: make(chan struct{})}
}

// send sends the next message.
func (e *echoes) send() error {
	e.mu.Lock()
	var b [messageBytes]byte
	binary.BigEndian.PutUint64(b[:], uint64(len(e.sent)))
	e.sent = append(e.sent, time.Now())
	e.mu.Unlock()
	_, err := e.stream.Write(b[:])
	return err
}

// read takes reports until the stream fails, and returns why.
func (e *echoes) read() error {
	for {
		var b [messageBytes]byte
		if _, err := io.ReadFull(e.stream, b[:]); err != nil {
			return err
		}
		r := parseReport(&b)
		now := time.Now()
		e.mu.Lock()
		if r.seq != uint64(len(e.back)) || r.seq >= uint64(len(e.sent)) {
			e.mu.Unlock()
			return errors.New("the peer's reports are out of order")
		}
		e.back = append(e.back, now.Sub(e.sent[r.seq]))
		if r.seq == 0 || r.sunk == e.idle.bytes {
			e.idle = progress{r.clock, r.sunk}
		}
		if r.sunk != e.arrived.bytes {
			e.arrived = progress{r.clock, r.sunk}
		}
		e.newest = r
		close(e.came)
		e.came = make(chan struct{})
		e.mu.Unlock()
	}
}

// begin asks how the peer's counters stand. That round trip does not count.
func (e *echoes) begin(ctx context.Context, failed <-chan error) error {
	err := e.ask(ctx, failed, 0)
	e.mu.Lock()
	e.counts = len(e.sent)
	e.mu.Unlock()
	return err
}

// ask sends a message and waits until all are answered, or for limit if that is not 0: no answer by
// then is no failure.
func (e *echoes) ask(ctx context.Context, failed <-chan error, limit time.Duration) error {
	if err := e.send(); err != nil {
		return err
	}
	var late <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		late = t.C
	}
	for {
		e.mu.Lock()
		done, came := len(e.back) == len(e.sent), e.came
		e.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-came:
		case <-late:
			return nil
		case err := <-failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// last returns the newest report.
func (e *echoes) last() report {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.newest
}

// rtt returns the last round trip, 0 before the first.
func (e *echoes) rtt() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.back) == 0 {
		return 0
	}
	return e.back[len(e.back)-1]
}

// times returns the round trips that count; of what was not answered, the time it has waited.
func (e *echoes) times() []time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	var times []time.Duration
	for i := e.counts; i < len(e.sent); i++ {
		if i < len(e.back) {
			times = append(times, e.back[i])
		} else {
			times = append(times, time.Since(e.sent[i]))
		}
	}
	return times
}

// sunk returns how far the peer's sinks were before data came and how far they are.
func (e *echoes) sunk() (from, to progress) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.idle, e.arrived
}
