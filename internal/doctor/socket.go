package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// retransmissions of a request, after the first: shorter than RFC 8489 section 6.2.1 has them, because all
// tests together have a few seconds.
var retransmissions = []time.Duration{150 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond}

// A socket sends requests from one UDP port and hands out what comes in. Its methods may be called from
// any goroutine.
type socket struct {
	conn *net.UDPConn
	done chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	waiting map[txid]chan<- reply // guarded by mu
}

func listen(v6 bool, port int) (*socket, error) {
	network := "udp4"
	if v6 {
		network = "udp6"
	}
	c, err := net.ListenUDP(network, &net.UDPAddr{Port: port})
	if err != nil {
		return nil, err
	}
	s := &socket{conn: c, done: make(chan struct{}), waiting: make(map[txid]chan<- reply)}
	go s.read()
	return s, nil
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
		r.from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
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
func (s *socket) expect(id txid) (<-chan reply, func()) {
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
		if _, err := s.conn.WriteToUDPAddrPort(b, to); err != nil {
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

func newID() (id txid) {
	rand.Read(id[:]) // never fails
	return id
}
