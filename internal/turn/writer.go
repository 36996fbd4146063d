package turn

import (
	"errors"
	"net"
	"sync"
	"time"
)

const (
	queueBytes = 256 << 10
	flushFor   = time.Second // what is queued at the end may take
)

var errFull = errors.New("the relay reads too slowly: dropped")

// A writer queues messages for a stream, so that nobody waits for it, and drops what does not fit: a
// relay is a path like any other, which loses what it cannot carry.
type writer struct {
	conn  net.Conn
	mu    sync.Mutex
	work  sync.Cond
	queue []byte
	ended bool
	over  chan struct{}
}

func newWriter(c net.Conn) *writer {
	w := &writer{conn: c, over: make(chan struct{})}
	w.work.L = &w.mu
	go w.run()
	return w
}

// write queues b whole or not at all.
func (w *writer) write(b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return net.ErrClosed
	}
	if len(w.queue)+len(b) > queueBytes {
		return errFull
	}
	w.queue = append(w.queue, b...)
	w.work.Signal()
	return nil
}

func (w *writer) run() {
	defer close(w.over)
	var spare []byte
	for {
		w.mu.Lock()
		for len(w.queue) == 0 && !w.ended {
			w.work.Wait()
		}
		b := w.queue
		w.queue = spare[:0]
		w.mu.Unlock()
		if len(b) == 0 {
			return
		}
		_, err := w.conn.Write(b)
		spare = b
		if err != nil {
			w.mu.Lock()
			w.ended = true
			w.queue = nil
			w.mu.Unlock()
			w.conn.Close() // the reader tells the owner
			return
		}
	}
}

// close lets what is queued go out, for a second at most.
func (w *writer) close() {
	w.mu.Lock()
	w.ended = true
	w.work.Signal()
	w.mu.Unlock()
	_ = w.conn.SetWriteDeadline(time.Now().Add(flushFor)) // fails only when closed
	<-w.over
}
