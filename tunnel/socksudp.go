package tunnel

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// associate relays datagrams for the client of c (RFC 1928 section 7) until c ends:
//
//	 0       2      3      4
//	+-------+------+------+---------+------+------------------
//	| 0     | frag | type | address | port | the datagram
//	+-------+------+------+---------+------+------------------
//
// Fragments are dropped. Only the client's own address is listened to, and of that the first port that sends.
func (l *Listener) associate(ctx context.Context, c net.Conn, r socksRequest) {
	local, ok := c.LocalAddr().(*net.TCPAddr)
	if !ok { // a unix socket: there is no address to relay at
		l.denySocks(c, r, socksNoCommand)
		return
	}
	client := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	n, err := net.ListenUDP("udp", &net.UDPAddr{IP: local.IP, Zone: local.Zone})
	if err != nil {
		l.denySocks(c, r, socksFailed)
		return
	}
	_ = n.SetReadBuffer(udpBuffer) // it is better, not necessary
	reply := r.reply(nil, socksOK, n.LocalAddr().(*net.UDPAddr).AddrPort())
	if _, err := c.Write(reply); err == nil {
		_ = c.SetDeadline(time.Time{})
		var wg sync.WaitGroup
		wg.Go(func() { l.relaySocks(ctx, n, client) })
		_, _ = io.Copy(io.Discard, c) // nothing comes but the end
		_ = n.Close()                 // ends relaySocks
		wg.Wait()
	}
	_ = n.Close() // it may be closed already
	_ = c.Close() // the client has gone
}

// relaySocks serves the datagrams of one client until n is closed.
func (l *Listener) relaySocks(ctx context.Context, n *net.UDPConn, client netip.Addr) {
	ctx, stop := context.WithCancel(ctx)
	t := newFlows[Target](ctx, l.session, &l.opts)
	defer t.wg.Wait()
	defer stop()
	buf := make([]byte, maxDatagram)
	var peer netip.AddrPort // the client's
	var last string         // the address of the last datagram, as the client wrote it
	var target Target       // what it means
	for {
		size, from, err := n.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ctx.Err() != nil || !passing(err) {
				return
			}
			continue
		}
		if from.Addr().Unmap() != client || peer.IsValid() && from != peer {
			continue
		}
		p := buf[:size]
		if len(p) < 4 || p[0] != 0 || p[1] != 0 || p[2] != 0 {
			continue
		}
		// Most datagrams go where the one before went: then there is nothing to parse, nor to allocate.
		if k := len(last); k == 0 || len(p) < 3+k || string(p[3:3+k]) != last {
			to, k, ok := parseSocksAddr(p[3:], true)
			if !ok {
				continue
			}
			peer, target, last = from, to, string(p[3:3+k])
		}
		f := t.get(target)
		if f == nil {
			e := StreamEvent{Target: target.String(), Peer: from.String()}
			// Answers come from the address that the client asked, in its own words.
			answer := append(make([]byte, 3, 3+len(last)), last...)
			head := len(answer)
			f = t.open(target, header{kind: kindDynamic, target: target}, e, func(p []byte) {
				answer = append(answer[:head], p...)
				_, _ = n.WriteToUDPAddrPort(answer, from) // a loss
			})
		}
		f.send(p[3+len(last):])
	}
}
