package relay

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"adit/internal/outbox"
	"adit/internal/stunmsg"
)

const (
	streamQueue   = 128 << 10        // bytes that wait for a client
	streamBuffer  = 16 << 10         // bytes read at once
	streamSpare   = 16               // connections of an address besides its allocations
	streamsSpare  = 1024             // and in all
	streamGrace   = 15 * time.Second // how long a connection may be without an allocation
	streamAnswers = 16               // to requests of a connection without an allocation
)

// A stream is a client's connection over TCP or TLS (RFC 8656 section 2.1). Messages follow each other
// without anything between them.
type stream struct {
	conn      net.Conn
	transport string
	source    netip.Prefix
	out       *outbox.Outbox
}

// Serve takes clients in from a listener, of TCP or TLS, until it or the server is closed, and closes it.
// It returns nil if the server was closed.
func (t *TURN) Serve(l net.Listener) error {
	t.mu.Lock()
	if t.ended {
		t.mu.Unlock()
		_ = l.Close() // the server's end counts
		return nil
	}
	t.listeners[l] = struct{}{}
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.listeners, l)
		t.mu.Unlock()
		_ = l.Close() // closed already, or no use any more
	}()
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			t.ServeConn(c)
		case errors.Is(err, net.ErrClosed):
			select {
			case <-t.closed:
				return nil
			default:
				return err
			}
		default: // memory or file descriptors are short, or the client has left
			if !pause(t.closed) {
				return nil
			}
		}
	}
}

// ServeConn takes in one client. It returns at once; the connection is the server's from here on.
func (t *TURN) ServeConn(c net.Conn) {
	remote, ok1 := addrPort(c.RemoteAddr())
	local, ok2 := addrPort(c.LocalAddr())
	source, ok3 := sourceOf(remote.Addr())
	s := &stream{conn: c, transport: "tcp", source: source}
	if _, secure := c.(interface{ ConnectionState() tls.ConnectionState }); secure {
		s.transport = "tls"
	}
	t.mu.Lock()
	if !ok1 || !ok2 || !ok3 || t.ended || len(t.streams) >= t.cfg.Allocations+streamsSpare ||
		t.streamsFrom[source] >= t.cfg.PerSource+streamSpare {
		t.mu.Unlock()
		_ = c.Close() // there is no room for it
		return
	}
	t.streams[s] = struct{}{}
	t.streamsFrom[source]++
	t.wg.Go(func() { t.stream(s, &client{addr: remote, local: local.Addr(), conn: s}) })
	t.mu.Unlock()
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()), ap.IsValid()
}

// stream serves one connection until it ends.
func (t *TURN) stream(s *stream, c *client) {
	s.out = outbox.New(streamQueue, s.flush, func() { _ = s.conn.Close() })
	defer func() {
		if a := t.find(c.key()); a != nil {
			t.end(a, "the connection ended")
		}
		s.close()
		t.mu.Lock()
		delete(t.streams, s)
		if t.streamsFrom[s.source]--; t.streamsFrom[s.source] <= 0 {
			delete(t.streamsFrom, s.source)
		}
		t.mu.Unlock()
	}()
	r := bufio.NewReaderSize(s.conn, streamBuffer)
	buf := make([]byte, headroom+maxDatagram+padding)
	var out [maxAnswer]byte
	allocated, answers := false, 0
	_ = s.conn.SetReadDeadline(time.Now().Add(streamGrace)) // fails only when closed
	for {
		n, err := stunmsg.ReadFrame(r, buf[headroom:headroom+maxDatagram])
		if err != nil {
			return
		}
		response := t.packet(c, buf[:headroom+n], out[:], nil)
		if response == nil {
			continue
		}
		s.write(response)
		for holds := t.find(c.key()) != nil; holds != allocated; holds = t.find(c.key()) != nil {
			allocated, answers = holds, 0
			if holds {
				keep(s.conn)
			}
			var until time.Time // none while there is an allocation: that has a time of its own
			if !holds {
				until = time.Now().Add(streamGrace)
			}
			_ = s.conn.SetReadDeadline(until) // fails only when closed
		}
		select {
		case <-t.closed:
			return // Close may have set a deadline before this did
		default:
		}
		if answers++; !allocated && answers >= streamAnswers {
			return
		}
	}
}

// keep tells the connection below c that its client has shown a credential, if anything there wants to know.
func keep(c net.Conn) {
	for c != nil {
		if k, ok := c.(interface{ Keep() }); ok {
			k.Keep()
			return
		}
		over, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return
		}
		c = over.NetConn()
	}
}

// write queues a message, whole or not at all.
func (s *stream) write(b []byte) { _, _ = s.out.Write(b) }

// flush writes messages: over TLS each as a record of its own, for there are clients that look for no
// second one in a record (coturn's).
func (s *stream) flush(b []byte) error {
	for len(b) > 0 {
		n := len(b)
		if s.transport == "tls" {
			n = stunmsg.FrameBytes(b)
		}
		if _, err := s.conn.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// close lets what is queued go out, for a second at most, and closes the connection.
func (s *stream) close() {
	s.out.Close()
	_ = s.conn.Close() // may be closed already
}
