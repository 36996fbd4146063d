package punch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	bufferBytes = 8 << 20 // asked for each socket and direction

	portTries = 16 // how many ports to try for one that is free in both families
)

// ErrPortInUse is returned by Listen when another socket of this machine has the port.
var ErrPortInUse = errors.New("address already in use")

// A socket is a wildcard socket of one family.
type socket struct {
	conn   *net.UDPConn
	v6     bool
	port   uint16
	buffer int  // granted receive buffer, bytes
	whole  bool // datagrams are never fragmented
	batch  batch
	bound  netip.Addr // the address that packets leave from; invalid for a wildcard socket

	// Of an IPv4 socket that is one in name: nat64.go.
	over   *socket
	prefix *atomic.Pointer[netip.Prefix]
}

// network names the family as package net does.
func network(v6 bool) string {
	if v6 {
		return "udp6"
	}
	return "udp4"
}

func listenSocket(v6 bool, port int) (*socket, error) {
	var lc net.ListenConfig // for udp6 it sets IPV6_V6ONLY
	pc, err := lc.ListenPacket(context.Background(), network(v6), ":"+strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	return newSocket(pc.(*net.UDPConn), v6)
}

// newSocket makes a socket of a connection, which it closes if that fails.
func newSocket(c *net.UDPConn, v6 bool) (*socket, error) {
	s := &socket{conn: c, v6: v6, port: c.LocalAddr().(*net.UDPAddr).AddrPort().Port(), buffer: setBuffers(c, bufferBytes)}
	s.whole = dontFragment(c, v6)
	if err := s.batch.init(c); err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

// listenPair opens a socket for each family, on one port if that can be had. A family that the
// system does not have is nil.
func listenPair(port int) (s4, s6 *socket, err error) {
	for try := 0; ; try++ {
		s4, err4 := listenSocket(false, port)
		want := port
		if err4 == nil {
			want = int(s4.port)
		} else if inUse(err4) {
			return nil, nil, fmt.Errorf("listen on UDP port %d: %w", port, ErrPortInUse)
		}
		s6, err6 := listenSocket(true, want)
		if err6 != nil && inUse(err6) {
			if s4 != nil {
				s4.conn.Close()
			}
			if port != 0 {
				return nil, nil, fmt.Errorf("listen on UDP port %d: %w", port, ErrPortInUse)
			}
			if try < portTries {
				continue
			}
			// Both families on different ports are better than one.
			if s4, err4 = listenSocket(false, 0); err4 == nil {
				s6, err6 = listenSocket(true, 0)
			}
		}
		if err4 != nil && err6 != nil {
			return nil, nil, fmt.Errorf("listen on UDP port %d: %w", port, err4)
		}
		return s4, s6, nil
	}
}

// inUse reports whether err says that a port is taken. On Windows package syscall has another value
// for EADDRINUSE than the one the system returns.
func inUse(err error) bool {
	const wsaeaddrinuse = syscall.Errno(10048)
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, wsaeaddrinuse)
}

// readLoop hands what arrives to got until the socket is closed. Other errors do not end it: they
// tell of earlier datagrams (ECONNREFUSED, WSAECONNRESET) or of a network that is down.
func (s *socket) readLoop(ctx context.Context, got func(b []byte, segment int, from netip.AddrPort)) {
	from := s
	if s.over != nil {
		s = s.over
	}
	r := s.batch.reader()
	failures := 0
	for {
		runs, err := r.read()
		if err == nil {
			failures = 0
			for _, run := range runs {
				got(run.b, run.segment, from.from(run.from))
			}
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if failures++; failures < 16 {
			continue
		}
		t := time.NewTimer(50 * time.Millisecond) // an error that stays must not keep a core busy
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// sendEach sends the datagrams one by one. It goes on after an error that concerns one datagram and
// returns the first.
func sendEach(c *net.UDPConn, p []byte, segment int, to netip.AddrPort) error {
	var first error
	for len(p) > 0 {
		n := min(segment, len(p))
		_, err := c.WriteToUDPAddrPort(p[:n], to)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if first == nil {
			first = err
		}
		p = p[n:]
	}
	return first
}
