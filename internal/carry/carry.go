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
// Errors: [ErrRefused], [ErrUpgrade], and what ends the connection.
package carry

import (
	"encoding/binary"
	"errors"
	"io"

	"adit/internal/outbox"
)

// ErrRefused is a server that does not carry: it may not, or has no room.
var ErrRefused = errors.New("the server does not carry datagrams")

// ErrUpgrade is a server that would carry, or would say that it does not, behind a proxy that stands in between.
var ErrUpgrade = errors.New("a proxy on the way, or in front of the server, does not pass on Upgrade")

const (
	maxDatagram = 1600
	maxMessage  = 32 << 10 // of one WebSocket message; several datagrams travel in one
	queueBytes  = 256 << 10
)

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

// A writer queues messages for a connection.
type writer struct {
	out  *outbox.Outbox
	conn io.WriteCloser
	mask bool
}

func newWriter(c io.WriteCloser, mask bool) *writer {
	write := func(b []byte) error { _, err := c.Write(b); return err }
	return &writer{out: outbox.New(queueBytes, write, func() { c.Close() }), conn: c, mask: mask}
}

// frame queues a frame whole or not at all.
func (w *writer) frame(opcode byte, payload []byte) error {
	return w.out.Put(len(payload)+maxFrameHeader, func(q []byte) []byte {
		return appendFrame(q, opcode, payload, w.mask)
	})
}

// close lets what is queued go out, for a second at most, and closes the connection.
func (w *writer) close() {
	w.out.Close()
	w.conn.Close()
}
