// Package outbox queues bytes for a connection, so that nobody waits for it. What does not fit is dropped,
// whole: the streams that carry datagrams (TURN over TCP and TLS, WebSocket) are paths like any other,
// which lose what they cannot carry.
package outbox

import (
	"errors"
	"net"
	"sync"
	"time"
)

// flushFor is how long what is queued at the end may take.
const flushFor = time.Second

// ErrFull says that the connection is too slow for what was to be queued.
var ErrFull = errors.New("the connection is too slow: dropped")

// An Outbox has a goroutine that writes. Make one with [New].
type Outbox struct {
	most  int
	write func([]byte) error
	abort func()

	mu    sync.Mutex
	work  sync.Cond
	queue []byte
	ended bool
	over  chan struct{}
}

// New returns an outbox for at most so many bytes. write gets all that is queued, by one goroutine, and must
// not keep it. abort is called, perhaps twice, where write must end or has failed: it closes the connection,
// whose reader tells the owner.
func New(most int, write func([]byte) error, abort func()) *Outbox {
	o := &Outbox{most: most, write: write, abort: abort, over: make(chan struct{})}
	o.work.L = &o.mu
	go o.run()
	return o
}

// Put queues what add appends, n bytes at most. It never blocks; the error is ErrFull, or net.ErrClosed after
// Close or when write has failed.
func (o *Outbox) Put(n int, add func(queue []byte) []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return net.ErrClosed
	}
	if len(o.queue)+n > o.most {
		return ErrFull
	}
	o.queue = add(o.queue)
	o.work.Signal()
	return nil
}

// Write queues b whole, or not at all: n is 0 or len(b). Errors as those of Put.
func (o *Outbox) Write(b []byte) (n int, err error) {
	if err := o.Put(len(b), func(q []byte) []byte { return append(q, b...) }); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (o *Outbox) run() {
	defer close(o.over)
	var spare []byte
	for {
		o.mu.Lock()
		for len(o.queue) == 0 && !o.ended {
			o.work.Wait()
		}
		b := o.queue
		o.queue = spare[:0]
		o.mu.Unlock()
		if len(b) == 0 {
			return
		}
		if err := o.write(b); err != nil {
			o.mu.Lock()
			o.ended, o.queue = true, nil
			o.mu.Unlock()
			o.abort()
			return
		}
		spare = b
	}
}

// Close lets what is queued go out, for a second at most, and returns when the last write has.
func (o *Outbox) Close() {
	o.mu.Lock()
	o.ended = true
	o.work.Signal()
	o.mu.Unlock()
	t := time.AfterFunc(flushFor, o.abort)
	defer t.Stop()
	<-o.over
}
