package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/netlab"
)

// The service that every tool forwards to. A connection's first byte says what it wants, the second is
// the number of the meter that counts it.
const (
	modeSink = 's' // read and count
	modeEcho = 'e' // send back what comes after the two bytes
)

// servicePort is where the service listens, at all addresses of the right host.
const servicePort = 7000

// A meter counts what the service received.
type meter struct {
	bytes   atomic.Int64
	last    atomic.Int64 // when, in nanoseconds since the service began
	longest atomic.Int64 // nanoseconds between two reads
}

// A service is the far end of all measurements.
type service struct {
	began  time.Time
	meters [256]meter
}

// serve starts the service on h, for as long as the job lasts.
func (j *job) serve(h *netlab.Host) *service {
	l, err := h.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", servicePort))
	j.check("listen", err)
	s := &service{began: time.Now()}
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				s.handle(c)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	j.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return s
}

func (s *service) handle(c net.Conn) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(c, head); err != nil {
		return
	}
	m := &s.meters[head[1]]
	switch head[0] {
	case modeSink:
		buf := make([]byte, 256<<10)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			m.count(n, time.Since(s.began))
		}
	case modeEcho:
		buf := make([]byte, 4<<10) // io.Copy's 32 KiB are a lot for a thousand idle connections
		_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, buf)
	}
}

// count records a read. Several connections may share a meter: the gap is then between any two of them.
func (m *meter) count(n int, at time.Duration) {
	m.bytes.Add(int64(n))
	if last := m.last.Swap(int64(at)); last != 0 {
		if gap := int64(at) - last; gap > m.longest.Load() {
			m.longest.Store(gap) // a race loses nothing that matters
		}
	}
}

// A client measures a tunnel from its entry.
type client struct {
	j     *job
	h     *netlab.Host
	entry netip.AddrPort
}

// dial connects, and says what for.
func (c *client) dial(ctx context.Context, mode, meter byte, more []byte) (net.Conn, error) {
	conn, err := c.h.Dial(ctx, "tcp4", c.entry)
	if err != nil {
		return nil, err
	}
	if d, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(d)
	}
	if _, err := conn.Write(append([]byte{mode, meter}, more...)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// open dials a connection that lasts as long as the job.
func (c *client) open(mode, meter byte) net.Conn {
	conn, err := c.dial(c.j.ctx, mode, meter, nil)
	c.j.check("connect", err)
	stop := context.AfterFunc(c.j.ctx, func() { conn.Close() })
	c.j.Cleanup(func() { stop(); conn.Close() })
	return conn
}

// ready waits until an echo comes back through the tunnel, and says when.
func (c *client) ready(limit time.Duration) time.Time {
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); {
		ctx, cancel := context.WithTimeout(c.j.ctx, 3*time.Second)
		err = c.exchange(ctx, []byte{1})
		cancel()
		if err == nil {
			return time.Now()
		}
		c.j.pause(20 * time.Millisecond)
	}
	c.j.Fatalf("no echo through the tunnel within %v: %w", limit, err)
	return time.Time{}
}

// exchange is one short connection: connect, send, get the same back, close.
func (c *client) exchange(ctx context.Context, msg []byte) error {
	conn, err := c.dial(ctx, modeEcho, 0, msg)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.ReadFull(conn, make([]byte, len(msg)))
	return err
}

// flood sends on connections until stop is called.
func (c *client) flood(conns int, meter byte) (stop func()) {
	var wg sync.WaitGroup
	var open []net.Conn
	for range conns {
		conn := c.open(modeSink, meter)
		open = append(open, conn)
		wg.Go(func() {
			buf := make([]byte, 128<<10)
			for {
				if _, err := conn.Write(buf); err != nil {
					return
				}
			}
		})
	}
	stop = sync.OnceFunc(func() {
		for _, conn := range open {
			// What waits in the socket would go on for a while.
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
		wg.Wait()
	})
	c.j.Cleanup(stop)
	return stop
}

// pingpong sends messages of 64 bytes on some connections, each when the one before is back and the
// interval is over, and returns all round trips.
func (c *client) pingpong(conns int, interval, span time.Duration) []time.Duration {
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var wg sync.WaitGroup
	for i := range conns {
		conn := c.open(modeEcho, 0)
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(span + 30*time.Second))
		wg.Go(func() {
			time.Sleep(interval * time.Duration(i) / time.Duration(conns))
			msg := make([]byte, 64)
			for end := time.Now().Add(span); time.Now().Before(end); {
				began := time.Now()
				_, err := conn.Write(msg)
				if err == nil {
					_, err = io.ReadFull(conn, msg)
				}
				took := time.Since(began)
				mu.Lock()
				if err != nil {
					failed = err
				} else {
					all = append(all, took)
				}
				mu.Unlock()
				if err != nil {
					return
				}
				time.Sleep(interval - took)
			}
		})
	}
	wg.Wait()
	c.j.check("echo", failed)
	return all
}

// connections makes n short connections, some at a time, and returns how long each took and all of them.
func (c *client) connections(n, atOnce int) (each []time.Duration, all time.Duration) {
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	var next atomic.Int64
	began := time.Now()
	for range atOnce {
		wg.Go(func() {
			msg := make([]byte, 64)
			for next.Add(1) <= int64(n) {
				ctx, cancel := context.WithTimeout(c.j.ctx, 15*time.Second)
				t := time.Now()
				err := c.exchange(ctx, msg)
				took := time.Since(t)
				cancel()
				mu.Lock()
				if err != nil {
					failed = err
				} else {
					each = append(each, took)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	all = time.Since(began)
	c.j.check("short connection", failed)
	return each, all
}
