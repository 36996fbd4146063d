package turn

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/pion/stun"

	"adit/internal/stunmsg"
)

// A peer is an address that the relay sends to through a channel. Guarded by Allocation.mu.
type peer struct {
	addr    netip.AddrPort
	channel uint16
	bound   bool
	binding bool
	renewAt time.Time
	retryAt time.Time // after a failure
	err     error     // of the last try to bind
	waiting [][]byte  // datagrams until the channel is bound
}

// Permit lets datagrams from the address in (RFC 8656 §9), of any port, until the allocation ends. It
// returns when the relay agreed: ErrForbidden says that it does not.
func (a *Allocation) Permit(ctx context.Context, addr netip.Addr) error {
	addr = addr.Unmap()
	a.mu.Lock()
	err := a.endedLocked()
	if _, known := a.allowed[addr]; err == nil && !known && len(a.allowed) >= maxPeers {
		err = ErrPeers
	}
	a.mu.Unlock()
	if err != nil {
		return err
	}
	if err := a.permit(ctx, addr); err != nil {
		return fmt.Errorf("let the relay take packets from %v: %w", addr, err)
	}
	a.mu.Lock()
	a.allowed[addr] = time.Now().Add(permissionEach)
	a.mu.Unlock()
	return nil
}

func (a *Allocation) permit(ctx context.Context, addr netip.Addr) error {
	_, err := a.c.do(ctx, stun.MethodCreatePermission, peerAddress(netip.AddrPortFrom(addr, 0)))
	return err
}

// Send sends the datagrams of segment bytes each that b holds, of which the last may be shorter, to a
// peer. It keeps nothing of b and never blocks on the relay's answers: the first datagrams to a peer
// wait, up to 16 of them, for its channel. Like the network it may lose datagrams. What can be known
// is returned: ErrForbidden for a peer that the relay refuses, ErrPeers, and an error that unwraps to
// net.ErrClosed when the allocation has ended.
func (a *Allocation) Send(b []byte, segment int, to netip.AddrPort) error {
	if segment <= 0 || segment > maxDatagram {
		return fmt.Errorf("relay datagrams of %d bytes: the limit is %d", segment, maxDatagram)
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	a.mu.Lock()
	p, err := a.peerLocked(to)
	if err != nil {
		a.mu.Unlock()
		return err
	}
	if !p.bound {
		for len(b) > 0 && len(p.waiting) < maxWaiting {
			d := b[:min(segment, len(b))]
			p.waiting = append(p.waiting, append([]byte(nil), d...))
			b = b[len(d):]
		}
		a.mu.Unlock()
		return nil
	}
	channel := p.channel
	a.mu.Unlock()
	return a.sendChannel(channel, b, segment)
}

func (a *Allocation) sendChannel(channel uint16, b []byte, segment int) error {
	buf := a.buffers.Get().(*[]byte)
	defer a.buffers.Put(buf)
	out := (*buf)[:0]
	var first error
	for len(b) > 0 {
		d := b[:min(segment, len(b))]
		b = b[len(d):]
		out = stunmsg.AppendChannelData(out, channel, d, a.c.stream)
		if a.c.stream && len(b) > 0 && len(out) < 32<<10 {
			continue // several leave in one write
		}
		if err := a.c.send(out); err != nil && first == nil {
			first = err
		}
		out = out[:0]
	}
	*buf = out
	return first
}

// peerLocked returns the peer, with a channel on its way if it has none.
func (a *Allocation) peerLocked(to netip.AddrPort) (*peer, error) {
	if err := a.endedLocked(); err != nil {
		return nil, err
	}
	p := a.peers[to]
	if p == nil {
		if len(a.peers) >= maxPeers || a.next > stunmsg.MaxChannel {
			return nil, ErrPeers
		}
		p = &peer{addr: to, channel: a.next}
		a.next++
		a.peers[to] = p
		a.channels[p.channel] = p
	}
	if p.bound || p.binding {
		return p, nil
	}
	if p.err != nil && time.Now().Before(p.retryAt) {
		return nil, p.err
	}
	p.binding = true
	a.wg.Go(func() { a.bind(p) })
	return p, nil
}

// bind binds the channel of a peer, which permits its address as well (RFC 8656 §12), and sends what
// waited for it.
func (a *Allocation) bind(p *peer) {
	_, err := a.c.do(a.ctx, stun.MethodChannelBind, channelNumber(p.channel), peerAddress(p.addr))
	a.mu.Lock()
	defer a.mu.Unlock()
	p.binding, p.err = false, err
	if err != nil {
		p.bound, p.waiting = false, nil
		p.retryAt = time.Now().Add(allowance)
		p.err = fmt.Errorf("relay to %v: %w", p.addr, err)
		return
	}
	for _, d := range p.waiting {
		_ = a.sendChannel(p.channel, d, len(d)) // a loss
	}
	p.bound, p.waiting = true, nil
	p.renewAt = time.Now().Add(permissionEach)
}

// renewPeers renews permissions and channels that are due.
func (a *Allocation) renewPeers(now time.Time) {
	var channels []*peer
	var addrs []netip.Addr
	a.mu.Lock()
	for _, p := range a.peers {
		if p.bound && !p.binding && !now.Before(p.renewAt) {
			p.binding = true
			channels = append(channels, p)
		}
	}
	for addr, at := range a.allowed {
		if !now.Before(at) {
			addrs = append(addrs, addr)
		}
	}
	a.mu.Unlock()
	for _, p := range channels {
		a.bind(p)
	}
	for _, addr := range addrs {
		if err := a.permit(a.ctx, addr); err != nil {
			a.log.Info("relay no longer takes packets from a peer", "peer", addr, "err", err)
			continue // tried again in a moment
		}
		a.mu.Lock()
		a.allowed[addr] = now.Add(permissionEach)
		a.mu.Unlock()
	}
}
