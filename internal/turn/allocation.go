package turn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun"

	"adit/internal/stunmsg"
)

// Config says which server to use, and how. Server is required.
type Config struct {
	Server Server

	// TLS is used for turns: URLs; nil is the system's roots and the URL's host name.
	TLS *tls.Config

	// Dial connects to the server; nil is a net.Dialer. For UDP the connection must keep datagrams apart.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// IPv6 asks for a relayed address of that family.
	IPv6 bool

	Logger *slog.Logger // nil is silent
}

// An Allocation is a UDP address on a relay. Its methods may be called from any goroutine.
type Allocation struct {
	c         *client
	transport transport
	log       *slog.Logger
	relayed   netip.AddrPort
	mapped    netip.AddrPort
	handler   atomic.Pointer[func(b []byte, segment int, from netip.AddrPort)]
	buffers   sync.Pool // *[]byte
	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	done      chan struct{}

	mu       sync.Mutex
	err      error
	peers    map[netip.AddrPort]*peer
	channels map[uint16]*peer
	next     uint16 // channel
	allowed  map[netip.Addr]time.Time
	renewAt  time.Time
	lapses   time.Time // when the server frees the allocation, unless it was renewed
}

// Allocate connects to the server and gets an address from it. It returns when there is one, or ctx is
// done, or the server refuses or does not answer for about 16 s.
func Allocate(ctx context.Context, cfg Config) (*Allocation, error) {
	c, t, err := dial(ctx, cfg)
	if err != nil {
		return nil, err
	}
	a := &Allocation{
		c: c, transport: t, log: cfg.Logger, done: make(chan struct{}), next: stunmsg.MinChannel,
		peers: make(map[netip.AddrPort]*peer), channels: make(map[uint16]*peer), allowed: make(map[netip.Addr]time.Time),
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.buffers.New = func() any { b := make([]byte, 0, 64<<10); return &b }
	a.ctx, a.cancel = context.WithCancel(context.Background())
	ended := make(chan error, 1)
	a.wg.Go(func() {
		err := c.read(a.receive)
		ended <- err
		a.end(fmt.Errorf("connection to the relay: %w", err))
	})
	attrs := []stun.Setter{requestedUDP, seconds(lifetime)}
	if cfg.IPv6 {
		attrs = append(attrs, requestedFamily(true))
	}
	asked := time.Now()
	limited, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(a.ctx, func() { cancel(fmt.Errorf("connection to the relay: %w", net.ErrClosed)) })
	r, err := c.do(limited, stun.MethodAllocate, attrs...)
	stop()
	cancel(nil)
	if err != nil {
		a.end(err)
		a.wg.Wait()
		return nil, fmt.Errorf("allocate on %s: %w", cfg.Server.URL, err)
	}
	var ok bool
	if a.relayed, ok = address(r, stun.AttrXORRelayedAddress); !ok || !a.relayed.IsValid() || a.relayed.Port() == 0 {
		a.end(ErrClosed)
		a.wg.Wait()
		return nil, fmt.Errorf("allocate on %s: the answer has no relayed address", cfg.Server.URL)
	}
	a.mapped, _ = address(r, stun.AttrXORMappedAddress) // without one, others tell it
	life := granted(r)
	a.renewed(asked, life)
	a.wg.Go(a.keep)
	a.log.Debug("relay allocated", "url", cfg.Server.URL, "relayed", a.relayed, "lifetime", life)
	return a, nil
}

// Relayed returns the address on the relay.
func (a *Allocation) Relayed() netip.AddrPort { return a.relayed }

// Mapped returns this side's address as the server sees it; it may be invalid.
func (a *Allocation) Mapped() netip.AddrPort { return a.mapped }

// Transport returns how the server is reached: "udp", "tcp" or "tls".
func (a *Allocation) Transport() string { return a.transport.String() }

// SetHandler sets who gets what peers sent: one datagram of segment bytes, valid during the call only.
// The handler is called from one goroutine and must not block, nor call Close.
func (a *Allocation) SetHandler(f func(b []byte, segment int, from netip.AddrPort)) {
	if f == nil {
		a.handler.Store(nil)
		return
	}
	a.handler.Store(&f)
}

// Done is closed when the allocation has ended.
func (a *Allocation) Done() <-chan struct{} { return a.done }

// Err returns why the allocation ended, or nil.
func (a *Allocation) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// Close gives the allocation back and waits for its goroutines.
func (a *Allocation) Close() error {
	a.mu.Lock()
	live := a.err == nil
	a.mu.Unlock()
	if live && a.c.authed() {
		a.goodbye()
	}
	a.end(ErrClosed)
	a.wg.Wait()
	return nil
}

// goodbye asks the server to free the allocation (RFC 8656 §7), once: it would time out anyway.
func (a *Allocation) goodbye() {
	ctx, cancel := context.WithTimeout(a.ctx, firstRTO)
	defer cancel()
	_, _ = a.c.do(ctx, stun.MethodRefresh, seconds(0))
}

func (a *Allocation) end(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return
	}
	a.err = err
	a.cancel()
	close(a.done)
	a.wg.Go(a.c.close) // it may flush for a second
}

// receive takes in one message of the server.
func (a *Allocation) receive(b []byte) {
	if channel, data, ok := stunmsg.ChannelData(b); ok {
		a.mu.Lock()
		p := a.channels[channel]
		a.mu.Unlock()
		if p != nil {
			a.deliver(data, p.addr)
		}
		return
	}
	if !stunmsg.Is(b) {
		return
	}
	m := &stun.Message{Raw: append([]byte(nil), b...)}
	if m.Decode() != nil {
		return
	}
	switch {
	case m.Type.Class == stun.ClassSuccessResponse, m.Type.Class == stun.ClassErrorResponse:
		a.c.answered(m)
	case m.Type == stun.NewType(stun.MethodData, stun.ClassIndication):
		from, ok := address(m, stun.AttrXORPeerAddress)
		data, err := m.Get(stun.AttrData)
		if ok && err == nil {
			a.deliver(data, from)
		}
	}
}

func (a *Allocation) deliver(b []byte, from netip.AddrPort) {
	if f := a.handler.Load(); f != nil && len(b) > 0 {
		(*f)(b, len(b), from)
	}
}

// keep renews the allocation, its permissions and channels until it ends.
func (a *Allocation) keep() {
	t := time.NewTicker(15 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-t.C:
		}
		now := time.Now()
		a.mu.Lock()
		renew, lapses := !now.Before(a.renewAt), a.lapses
		a.mu.Unlock()
		if !renew {
			a.renewPeers(now)
			continue
		}
		r, err := a.c.do(a.ctx, stun.MethodRefresh, seconds(lifetime))
		switch {
		case err == nil:
			a.renewed(now, granted(r))
			a.renewPeers(now)
		case final(err), !time.Now().Before(lapses):
			a.end(fmt.Errorf("renew the allocation: %w", err))
			return
		} // the server keeps it for minutes more: another try comes at the next tick
	}
}

// renewed notes that the server has granted a lifetime to a request that was made at a time.
func (a *Allocation) renewed(at time.Time, life time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.renewAt, a.lapses = at.Add(life/2), at.Add(life)
}

// final says whether an error of a request will not pass: the transport has ended, or the server itself has refused.
func final(err error) bool {
	var e *ResponseError
	return errors.Is(err, net.ErrClosed) || errors.As(err, &e) && !unsigned(stun.ErrorCode(e.Code))
}

func (c *client) authed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.key != nil
}

// ended reports why nothing can be sent.
func (a *Allocation) endedLocked() error {
	if a.err == nil || errors.Is(a.err, net.ErrClosed) {
		return a.err
	}
	return fmt.Errorf("%w: %w", ErrClosed, a.err)
}
