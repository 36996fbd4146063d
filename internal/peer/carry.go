package peer

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"adit/internal/carry"
	"adit/internal/handshake"
	"adit/signal"
)

const (
	// carryAfter is how long every other path is tried before the rendezvous is asked to carry the packets
	// themselves: it is the slowest road, and somebody else's.
	carryAfter = 2500 * time.Millisecond

	carryAgain     = time.Second // between tries, doubling, once it has worked
	carryAgainMost = 15 * time.Second
)

// carried is a path through the rendezvous, over whatever connection to it there is now.
type carried struct {
	conn    atomic.Pointer[carry.Conn]
	handler atomic.Pointer[func(b []byte, segment int, from netip.AddrPort)]
}

func (c *carried) Send(b []byte, segment int, to netip.AddrPort) error {
	if conn := c.conn.Load(); conn != nil {
		return conn.Send(b, segment, to)
	}
	return net.ErrClosed // a loss
}

func (c *carried) SetHandler(f func(b []byte, segment int, from netip.AddrPort)) { c.handler.Store(&f) }

// carryID is how the two sides find each other at a rendezvous that carries their packets. It derives from the first
// keys of the session, so that nobody else takes part, and stays what it is when they change.
func carryID(keys *handshake.Result) (id [16]byte) {
	copy(id[:], keys.Exporter("adit carry", len(id)))
	return id
}

// carryVia offers the rendezvous as a path, should there be no other soon.
func (e *endpoint) carryVia(ctx context.Context, client *signal.Client, id [16]byte) {
	if e.cfg.Path == PathDirect {
		return
	}
	side := 0
	if !e.controlling {
		side = 1
	}
	e.mu.Lock()
	e.relays.asking++
	e.mu.Unlock()
	e.wg.Go(func() {
		asked := func() {
			e.mu.Lock()
			e.relays.asking--
			e.mu.Unlock()
		}
		t := time.NewTimer(e.carryWait())
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done(): // there is a path
			asked()
			return
		}
		conn, err := client.Carry(ctx, id, side)
		if err != nil {
			e.cfg.Logger.Info("the rendezvous does not carry packets", "err", err)
			if ctx.Err() == nil && (!errors.Is(err, carry.ErrRefused) || errors.Is(err, carry.ErrUpgrade)) {
				e.relayFailed(client.URL, err) // that it may not is no fault
			}
			asked()
			return
		}
		c := &carried{}
		e.board.attach(c)
		conn.SetHandler(*c.handler.Load())
		c.conn.Store(conn)
		e.mu.Lock()
		e.relays.carried, e.relays.carrying = e.board.name(c, netip.AddrPort{}), c
		e.mu.Unlock()
		asked()
		e.probeRelay(e.board.name(c, netip.AddrPort{}))
		e.keepCarried(c, conn, func(ctx context.Context) (*carry.Conn, error) { return client.Carry(ctx, id, side) })
	})
}

// redialCarried ends the connection over which the rendezvous carries packets, if there is one: it belongs to
// a network that this machine has left, and may not notice that for a long time.
func (e *endpoint) redialCarried() {
	e.mu.Lock()
	c := e.relays.carrying
	e.mu.Unlock()
	if c != nil {
		e.wg.Go(func() { c.conn.Load().Close() })
	}
}

// keepCarried connects again whenever the connection ends, until the relays are closed, after the link.
func (e *endpoint) keepCarried(c *carried, conn *carry.Conn, dial func(context.Context) (*carry.Conn, error)) {
	for {
		select {
		case <-e.relaying.Done():
			conn.Close()
			return
		case <-conn.Done():
		}
		conn.Close()
		for wait := carryAgain; ; wait = min(2*wait, carryAgainMost) {
			next, err := dial(e.relaying)
			if err == nil {
				conn = next
				conn.SetHandler(*c.handler.Load())
				c.conn.Store(conn)
				break
			}
			if errors.Is(err, carry.ErrRefused) {
				e.cfg.Logger.Info("the rendezvous carries packets no longer", "err", err)
			}
			t := time.NewTimer(wait)
			select {
			case <-e.relaying.Done():
				t.Stop()
				return
			case <-t.C:
			}
		}
	}
}
