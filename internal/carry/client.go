package carry

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
)

// A Conn is one side of a pair. Its methods may be called from any goroutine.
type Conn struct {
	rwc     io.ReadWriteCloser
	w       *writer
	handler atomic.Pointer[func(b []byte, segment int, from netip.AddrPort)]
	buffers sync.Pool // *[]byte
	done    chan struct{}

	mu  sync.Mutex
	err error
}

// Dial takes a side, 0 or 1, at a hub whose URL for it is given. client says how to get there, proxies
// included, and header is sent with the request. It returns when the server has agreed; the other side need not be there. ErrRefused says
// that it did not agree.
func Dial(ctx context.Context, client *http.Client, url string, header http.Header) (*Conn, error) {
	// The connection lives on when ctx is done, which bounds the request alone.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	var nonce [16]byte
	rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	r, err := http.NewRequestWithContext(life, http.MethodGet, url, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	maps.Copy(r.Header, header)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", key)
	resp, err := client.Do(r)
	if err != nil {
		cancel()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	rwc, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok || resp.Header.Get("Sec-WebSocket-Accept") != acceptKey(key) || !stop() {
		resp.Body.Close()
		cancel()
		if resp.StatusCode == http.StatusUpgradeRequired {
			return nil, fmt.Errorf("%w (HTTP status %d): %w", ErrUpgrade, resp.StatusCode, ErrRefused)
		}
		return nil, fmt.Errorf("HTTP status %d: %w", resp.StatusCode, ErrRefused)
	}
	c := &Conn{rwc: rwc, w: newWriter(rwc, true), done: make(chan struct{})}
	c.buffers.New = func() any { b := make([]byte, 0, maxMessage); return &b }
	go func() {
		defer cancel()
		defer close(c.done)
		err := read(bufio.NewReaderSize(rwc, 64<<10), c.w, false, func(message []byte) {
			datagrams(message, func(p []byte) {
				if f := c.handler.Load(); f != nil {
					(*f)(p, len(p), netip.AddrPort{})
				}
			})
		})
		c.mu.Lock()
		if c.err == nil {
			c.err = fmt.Errorf("connection to the server: %w", err)
		}
		c.mu.Unlock()
		c.w.close()
	}()
	return c, nil
}

// SetHandler sets who gets what the other side sent: one datagram of segment bytes, valid during the
// call only. The handler is called from one goroutine and must not block, nor call Close.
func (c *Conn) SetHandler(f func(b []byte, segment int, from netip.AddrPort)) {
	if f == nil {
		c.handler.Store(nil)
		return
	}
	c.handler.Store(&f)
}

// Send sends the datagrams of segment bytes each that b holds, of which the last may be shorter, to the
// other side. It keeps nothing of b and does not block: what the connection has no room for is lost.
func (c *Conn) Send(b []byte, segment int, _ netip.AddrPort) error {
	if segment <= 0 || segment > maxDatagram {
		return fmt.Errorf("carry datagrams of %d bytes: the limit is %d", segment, maxDatagram)
	}
	buf := c.buffers.Get().(*[]byte)
	defer c.buffers.Put(buf)
	perMessage := maxMessage / (segment + 2) * segment
	var first error
	for len(b) > 0 {
		n := min(perMessage, len(b))
		*buf = appendDatagrams((*buf)[:0], b[:n], segment)
		b = b[n:]
		if err := c.w.frame(opBinary, *buf); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns why it ended, or nil.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close gives the side up and waits for the connection's goroutines, a second at most.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.err == nil {
		c.err = net.ErrClosed
	}
	c.mu.Unlock()
	c.w.close()
	<-c.done
	return nil
}
