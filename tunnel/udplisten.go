package tunnel

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// udpBuffer is how much of a burst a socket should hold; the system may give less.
const udpBuffer = 2 << 20

// datagrams forwards what comes to n, one flow for each source, until n is closed.
func (l *Listener) datagrams(ctx context.Context, n *net.UDPConn) {
	ctx, stop := context.WithCancel(ctx)
	t := newFlows[netip.AddrPort](ctx, l.session, &l.opts)
	defer t.wg.Wait()
	defer stop()
	buf := make([]byte, maxDatagram)
	backoff := minBackoff
	var denied time.Time // when a source was denied
	for {
		size, from, err := n.ReadFromUDPAddrPort(buf)
		switch {
		case err == nil:
			backoff = minBackoff
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		default: // Windows tells here that an earlier datagram found nobody
			l.opts.logger().Debug("read datagram", slog.Any("addr", n.LocalAddr()), slog.Any("err", err))
			if !sleep(ctx, backoff) {
				return
			}
			backoff = min(2*backoff, maxBackoff)
			continue
		}
		f := t.get(from)
		if f == nil && l.allow != nil {
			if time.Since(denied) < refusedFor {
				continue
			}
			if !l.allow() {
				denied = time.Now()
				continue
			}
		}
		if f == nil {
			e := StreamEvent{Target: l.name, Peer: from.String()}
			f = t.open(from, l.header, e, func(p []byte) {
				_, _ = n.WriteToUDPAddrPort(p, from) // a loss
			})
		}
		f.send(buf[:size])
	}
}

// sleep waits for d and reports whether ctx lives.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// listenUDP opens the sockets of f, which is about datagrams.
func listenUDP(ctx context.Context, f Forward) ([]*net.UDPConn, error) {
	var lc net.ListenConfig
	open := func(network, addr string) (*net.UDPConn, error) {
		c, err := lc.ListenPacket(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		u := c.(*net.UDPConn)
		_ = u.SetReadBuffer(udpBuffer) // it is better, not necessary
		return u, nil
	}
	port := strconv.Itoa(f.Port)
	addr, network := net.JoinHostPort(f.Bind, port), "udp"
	switch f.Bind {
	case "*":
		addr = ":" + port
	case "", "localhost":
		addr, network = "127.0.0.1:"+port, "udp4"
	}
	u, err := open(network, addr)
	if err != nil {
		return nil, &ListenError{Addr: f.Place(), Err: err}
	}
	if network == "udp" {
		return []*net.UDPConn{u}, nil
	}
	port = strconv.Itoa(u.LocalAddr().(*net.UDPAddr).Port)
	// Another program may hold the port there, or there may be no IPv6 at all.
	if u6, err := open("udp6", "[::1]:"+port); err == nil {
		return []*net.UDPConn{u, u6}, nil
	}
	return []*net.UDPConn{u}, nil
}
