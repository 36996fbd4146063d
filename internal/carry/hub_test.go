package carry

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// A stuckConn is a connection whose Close takes its time, as one over TLS may whose other end reads no more.
type stuckConn struct {
	net.Conn
	closing func()
	release <-chan struct{}
}

func (c *stuckConn) Close() error {
	c.closing()
	<-c.release
	return c.Conn.Close()
}

// A hijacked is a request's writer that gives its connection away.
type hijacked struct {
	http.ResponseWriter
	conn net.Conn
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// While an old connection is being closed, its successor and all others go on.
func TestSlowClose(t *testing.T) {
	hub := NewHub(Limits{})
	release := make(chan struct{})
	closing := make(chan struct{})
	var served sync.WaitGroup
	join := func(id string, side int, wrap func(net.Conn) net.Conn) net.Conn {
		t.Helper()
		here, there := net.Pipe()
		t.Cleanup(func() { here.Close() })
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Upgrade", "websocket")
		r.Header.Set("Sec-WebSocket-Version", "13")
		r.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
		served.Go(func() {
			hub.Serve(hijacked{httptest.NewRecorder(), wrap(there)}, r, id, side, netip.MustParseAddr("192.0.2.1"))
		})
		if err := here.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		// A pong for a ping: the hub has taken it in.
		resp, err := http.ReadResponse(bufio.NewReader(here), nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("no upgrade: %v", err)
		}
		if _, err := here.Write(appendFrame(nil, opPing, nil, true)); err != nil {
			t.Fatal(err)
		}
		if op, _, err := readFrame(bufio.NewReader(here), make([]byte, 125), false); err != nil || op != opPong {
			t.Fatalf("%s/%d: no answer: %v", id, side, err)
		}
		return here
	}
	plain := func(c net.Conn) net.Conn { return c }
	join("x", 1, func(c net.Conn) net.Conn {
		return &stuckConn{c, sync.OnceFunc(func() { close(closing) }), release}
	})
	join("x", 1, plain)
	<-closing
	join("y", 0, plain)
	close(release)
	hub.Close()
	served.Wait()
}
