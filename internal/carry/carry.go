// Package carry takes datagrams of two peers over an HTTP server that both reach, for networks that let
// nothing else through.
//
//	Dial ── GET .../{id}/{side}, Upgrade: websocket ──> Hub <── the same with the other side ── Dial
//	Send ── message: datagrams with their sizes ──────> Hub ── message ──> handler
//
// The datagrams are sealed by their owners; the hub cannot read them and does not know who they are
// from. Whoever knows the id, 128 random bits, may take a side. The transport is WebSocket (RFC 6455)
// because proxies and reverse proxies know it. What does not fit is dropped: this is a path like
// others, over a slow road.
//
// Errors: [ErrRefused], and what ends the connection.
package carry

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"
)

// ErrRefused is a server that does not carry: it may not, or has no room.
var ErrRefused = errors.New("the server does not carry datagrams")

const (
	maxDatagram = 1600
	maxMessage  = 32 << 10 // of one WebSocket message; several datagrams travel in one
	queueBytes  = 256 << 10
	flushFor    = time.Second // what is queued at the end may take
)

var errFull = errors.New("the connection is too slow: dropped")

// appendDatagrams appends the datagrams of segment bytes each that p holds, of which the last may be
// shorter, each behind its size.
func appendDatagrams(b, p []byte, segment int) []byte {
	for len(p) > 0 {
		d := p[:min(segment, len(p))]
		p = p[len(d):]
		b = binary.BigEndian.AppendUint16(b, uint16(len(d)))
		b = append(b, d...)
	}
	return b
}

// datagrams hands each datagram of a message to got. A size that does not fit ends it.
func datagrams(message []byte, got func(p []byte)) {
	for len(message) >= 2 {
		n := int(binary.BigEndian.Uint16(message))
		if n == 0 || n > maxDatagram || n > len(message)-2 {
			return
		}
		got(message[2 : 2+n])
		message = message[2+n:]
	}
}

// A writer queues messages for a connection, so that nobody waits for it, and drops what does not fit.
type writer struct {
	conn  writeCloser
	mask  bool
	mu    sync.Mutex
	work  sync.Cond
	queue []byte // whole frames
	ended bool
	over  chan struct{}
}

type writeCloser interface {
	Write([]byte) (int, error)
	Close() error
}

func newWriter(c writeCloser, mask bool) *writer {
	w := &writer{conn: c, mask: mask, over: make(chan struct{})}
	w.work.L = &w.mu
	go w.run()
	return w
}

// frame queues a frame whole or not at all.
func (w *writer) frame(opcode byte, payload []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return net.ErrClosed
	}
	if len(w.queue)+len(payload)+maxFrameHeader > queueBytes {
		return errFull
	}
	w.queue = appendFrame(w.queue, opcode, payload, w.mask)
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
			w.ended, w.queue = true, nil
			w.mu.Unlock()
			w.conn.Close() // the reader tells the owner
			return
		}
	}
}

// close lets what is queued go out, for a second at most, and closes the connection.
func (w *writer) close() {
	w.mu.Lock()
	w.ended = true
	w.work.Signal()
	w.mu.Unlock()
	t := time.AfterFunc(flushFor, func() { w.conn.Close() })
	<-w.over
	t.Stop()
	w.conn.Close()
}
