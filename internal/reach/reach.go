// Package reach connects to servers from networks of all kinds: such that lose packets, and such that have only
// IPv6 and translate.
package reach

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"adit/internal/nat64"
	"adit/internal/uplink"
)

// beside says how long after the beginning another TCP connection is tried beside those that have no answer yet.
// Systems send a lost SYN again after a second at the earliest (RFC 6298 §2), and the first packets in a network that was
// entered just now are lost often.
var beside = [...]time.Duration{300 * time.Millisecond, 700 * time.Millisecond}

// byAnother is when a TCP connection is tried from the machine's other addresses as well: the main route may lead
// nowhere where another uplink, which only takes what is sent from its own address, does.
const byAnother = 1500 * time.Millisecond

// A Dialer is a net.Dialer whose TCP connections are up soon though packets are lost, and which reaches IPv4
// addresses through a NAT64 where the machine has no IPv4. The zero Dialer is ready.
type Dialer struct {
	net.Dialer

	testOnlyOthers func() []netip.Addr
}

func (d *Dialer) others() []netip.Addr {
	if d.testOnlyOthers != nil {
		return d.testOnlyOthers()
	}
	return uplink.Others()
}

// DialContext connects as that of a net.Dialer does, but tries TCP several times at once if there is no
// answer; the first one counts, be it a refusal, and the others are closed. If address is an IPv4 address and there is
// no way to it, it asks for the prefix of a NAT64 and tries behind that; the first error is returned if there
// is none.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.first(ctx, network, address)
	if err == nil || !unreachable(err) {
		return c, err
	}
	at, perr := netip.ParseAddrPort(address)
	if perr != nil || !at.Addr().Unmap().Is4() || at.Addr().IsLoopback() {
		return nil, err
	}
	p, perr := nat64.Discover(ctx)
	if perr != nil {
		return nil, err
	}
	return d.first(ctx, network, netip.AddrPortFrom(nat64.Synthesize(p, at.Addr()), at.Port()).String())
}

// first returns what the first of several tries comes to.
func (d *Dialer) first(ctx context.Context, network, address string) (net.Conn, error) {
	if !strings.HasPrefix(network, "tcp") {
		return d.Dialer.DialContext(ctx, network, address)
	}
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		conn net.Conn
		err  error
	}
	const most = 3                                   // other addresses
	results := make(chan result, 1+len(beside)+most) // nobody waits for the last ones
	try := func(from netip.Addr) {
		dialer := d.Dialer
		if from.IsValid() {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		c, err := dialer.DialContext(ctx, network, address)
		if err != nil && from.IsValid() {
			<-ctx.Done() // it is not what is wrong
		}
		results <- result{c, err}
	}
	began := time.Now()
	tries, besides := 1, 0
	go try(netip.Addr{})
	next := time.NewTimer(beside[0])
	defer next.Stop()
	another := time.NewTimer(byAnother)
	defer another.Stop()
	for {
		select {
		case <-another.C:
			if d.LocalAddr != nil {
				continue
			}
			for _, from := range d.others() {
				go try(from)
				tries++
			}
		case r := <-results:
			cancel()
			go func(left int) {
				for range left {
					if r := <-results; r.conn != nil {
						_ = r.conn.Close() // not needed
					}
				}
			}(tries - 1)
			return r.conn, r.err
		case <-next.C:
			go try(netip.Addr{})
			tries++
			if besides++; besides < len(beside) {
				next.Reset(time.Until(began.Add(beside[besides])))
			}
		}
	}
}

// unreachable reports whether the system knows no way to an address. On Windows package syscall has other
// values for these than those that the system returns.
func unreachable(err error) bool {
	const wsaenetunreach, wsaehostunreach, wsaeaddrnotavail = syscall.Errno(10051), syscall.Errno(10065), syscall.Errno(10049)
	for _, e := range []error{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EADDRNOTAVAIL, wsaenetunreach, wsaehostunreach, wsaeaddrnotavail} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
