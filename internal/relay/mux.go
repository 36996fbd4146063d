package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	firstByteWait = 12 * time.Second // for the TLS handshake and the first byte

	// A rendezvous bounds its connections itself, fairly and before TLS: these are for listeners without one.
	maxUndecided   = 16_384 // connections whose first byte has not come
	maxUndecidedOf = 8192   // and of one address
)

// A Shared is a TLS listener of two servers: a client that begins with a STUN message is the TURN
// server's, and every other is for who calls Accept. Networks that let nothing out but HTTPS let this
// out too.
type Shared struct {
	inner  net.Listener
	cfg    *tls.Config
	turn   *TURN
	accept chan net.Conn // without room: a connection is handed over or still the listener's
	ended  chan struct{} // closed when inner accepts no more; err is why
	err    error
	closed chan struct{}
	once   sync.Once
	wg     sync.WaitGroup

	mu        sync.Mutex
	undecided map[net.Conn]struct{}
	sources   map[netip.Prefix]int // of them
}

// Share makes a TLS listener out of l and starts to accept. The caller closes it, before t.
func Share(l net.Listener, cfg *tls.Config, t *TURN) *Shared {
	cfg = cfg.Clone()
	if len(cfg.NextProtos) > 0 { // otherwise clients that name their protocol (RFC 7443) would be refused
		cfg.NextProtos = append(cfg.NextProtos[:len(cfg.NextProtos):len(cfg.NextProtos)], "stun.turn", "stun.nat-discovery")
	}
	s := &Shared{
		inner: l, cfg: cfg, turn: t,
		accept: make(chan net.Conn), ended: make(chan struct{}), closed: make(chan struct{}),
		undecided: make(map[net.Conn]struct{}), sources: make(map[netip.Prefix]int),
	}
	s.wg.Go(s.run)
	return s
}

// Accept implements net.Listener.
func (s *Shared) Accept() (net.Conn, error) {
	select {
	case c := <-s.accept:
		return c, nil
	case <-s.ended:
		return nil, s.err
	}
}

// Addr implements net.Listener.
func (s *Shared) Addr() net.Addr { return s.inner.Addr() }

// Close implements net.Listener. It closes connections that are nobody's yet, and waits for its goroutines.
func (s *Shared) Close() error {
	var err error
	s.once.Do(func() {
		close(s.closed)
		err = s.inner.Close()
	})
	s.mu.Lock()
	for c := range s.undecided {
		_ = c.Close() // its goroutine ends
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

func (s *Shared) run() {
	defer close(s.ended)
	for {
		c, err := s.inner.Accept()
		if err != nil {
			// Otherwise memory or file descriptors are short, or the client has left.
			if !errors.Is(err, net.ErrClosed) && pause(s.closed) {
				continue
			}
			s.err = err
			return
		}
		s.mu.Lock()
		select {
		case <-s.closed:
			s.mu.Unlock()
			_ = c.Close() // too late
			continue
		default:
		}
		from, _ := addrPort(c.RemoteAddr())
		source, _ := sourceOf(from.Addr())
		if len(s.undecided) >= maxUndecided || s.sources[source] >= maxUndecidedOf {
			s.mu.Unlock()
			_ = c.Close() // one of many that say nothing
			continue
		}
		s.undecided[c] = struct{}{}
		s.sources[source]++
		s.mu.Unlock()
		s.wg.Go(func() { s.decide(c, source) })
	}
}

// decide hands a connection over once it is known whose it is.
func (s *Shared) decide(raw net.Conn, source netip.Prefix) {
	c := tls.Server(raw, s.cfg)
	deadline := time.Now().Add(firstByteWait)
	_ = raw.SetDeadline(deadline) // fails only when closed
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	first := make([]byte, 1)
	err := c.HandshakeContext(ctx)
	if err == nil {
		_, err = c.Read(first)
	}
	s.mu.Lock()
	delete(s.undecided, raw)
	if s.sources[source]--; s.sources[source] <= 0 {
		delete(s.sources, source)
	}
	s.mu.Unlock()
	if err != nil {
		_ = raw.Close() // a scanner, or a client that does not trust the certificate
		return
	}
	_ = raw.SetDeadline(time.Time{})
	begun := &begunConn{Conn: c, first: first}
	if first[0] <= 3 { // of HTTP no message begins so (RFC 7983 section 7)
		s.turn.ServeConn(begun)
		return
	}
	select {
	case s.accept <- begun:
	case <-s.closed:
		_ = raw.Close()
	}
}

// A begunConn is a connection whose first byte has been read.
type begunConn struct {
	*tls.Conn
	first []byte // until it has been read again; owned by who reads
}

func (c *begunConn) Read(b []byte) (int, error) {
	if len(c.first) > 0 && len(b) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}
