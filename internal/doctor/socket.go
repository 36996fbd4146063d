package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"adit/internal/nat64"
	"adit/internal/stunmsg"
)

// retransmissions of a request, after the first: shorter than RFC 8489 section 6.2.1 has them, because all
// tests together have a few seconds.
var retransmissions = []time.Duration{150 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond}

// A socket sends requests from one UDP port and hands out what comes in. Its methods may be called from
// any goroutine.
type socket struct {
	conn *net.UDPConn
	way  way
	done chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	waiting map[stunmsg.ID]chan<- reply // guarded by mu
}

func listen(w way, port int) (*socket, error) { return listenFrom(w, netip.Addr{}, port) }

// listenFrom is listen for packets that leave from one address, if it is valid.
func listenFrom(w way, from netip.Addr, port int) (*socket, error) {
	network := "udp4"
	if w.over6() {
		network = "udp6"
	}
	c, err := net.ListenUDP(network, &net.UDPAddr{IP: from.AsSlice(), Port: port})
	if err != nil {
		return nil, err
	}
	s := &socket{conn: c, way: w, done: make(chan struct{}), waiting: make(map[stunmsg.ID]chan<- reply)}
	go s.read()
	return s, nil
}

// A way is how packets of one family leave.
type way struct {
	v6     bool
	prefix netip.Prefix // of the NAT64 behind which IPv4 is; invalid if there is IPv4, or neither
}

// over6 reports whether they are IPv6 packets on this machine.
func (w way) over6() bool { return w.v6 || w.prefix.IsValid() }

// source returns where a packet came from.
func (w way) source(from netip.AddrPort) netip.AddrPort {
	if v4, ok := nat64.Extract(w.prefix, from.Addr()); ok && !w.v6 {
		return netip.AddrPortFrom(v4, from.Port())
	}
	return netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// write sends one packet.
func (s *socket) write(b []byte, to netip.AddrPort) (int, error) {
	if p := s.way.prefix; p.IsValid() && to.Addr().Is4() {
		to = netip.AddrPortFrom(nat64.Synthesize(p, to.Addr()), to.Port())
	}
	return s.conn.WriteToUDPAddrPort(b, to)
}

func (s *socket) port() uint16 { return s.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

func (s *socket) close() {
	_ = s.conn.Close() // it only loses packets
	<-s.done
}

func (s *socket) read() {
	defer close(s.done)
	buf := make([]byte, 2048)
	for failures := 0; failures < 64; { // errors tell of earlier datagrams: ECONNREFUSED, say
		n, from, err := s.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			failures++
			continue
		}
		id, r, ok := parse(buf[:n])
		if !ok {
			continue
		}
		r.from = s.way.source(from)
		s.mu.Lock()
		to := s.waiting[id]
		s.mu.Unlock()
		select {
		case to <- r: // a nil channel takes nothing
		default: // it has one
		}
	}
}

// expect returns a channel that gets the first message with that id, whatever its kind.
func (s *socket) expect(id stunmsg.ID) (<-chan reply, func()) {
	c := make(chan reply, 1)
	s.mu.Lock()
	s.waiting[id] = c
	s.mu.Unlock()
	return c, func() {
		s.mu.Lock()
		delete(s.waiting, id)
		s.mu.Unlock()
	}
}

// ask sends a request, again and again, until there is an answer, none has come for wait, or ctx ends. rtt
// is from the latest transmission, which is too short if an earlier one was answered.
func (s *socket) ask(ctx context.Context, to netip.AddrPort, change, size int, wait time.Duration) (r reply, rtt time.Duration, err error) {
	id := newID()
	got, forget := s.expect(id)
	defer forget()
	b := request(id, change, size)
	end := time.NewTimer(wait)
	defer end.Stop()
	var again <-chan time.Time
	for n := 0; ; n++ {
		sent := time.Now()
		if _, err := s.write(b, to); err != nil {
			return r, 0, err
		}
		if n < len(retransmissions) {
			again = time.After(retransmissions[n])
		} else {
			again = nil
		}
		select {
		case r := <-got:
			return r, time.Since(sent), nil
		case <-again:
		case <-end.C:
			return r, 0, errSilent
		case <-ctx.Done():
			return r, 0, errSilent
		}
	}
}

// errSilent is what a server says that does not answer.
var errSilent = errors.New("no answer")

func newID() (id stunmsg.ID) {
	rand.Read(id[:]) // never fails
	return id
}
