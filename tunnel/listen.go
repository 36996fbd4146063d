package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"
)

// ErrListen is what every ListenError is.
var ErrListen = errors.New("cannot listen")

// A ListenError says that a local address cannot be listened on, for example because it is in use.
type ListenError struct {
	Addr string // as asked for
	Err  error  // of the system
}

func (e *ListenError) Error() string {
	// The net package repeats the operation and the address in front of what is wrong.
	err := e.Err
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return fmt.Sprintf("cannot listen on %s: %v", e.Addr, err)
}

func (e *ListenError) Unwrap() error        { return e.Err }
func (e *ListenError) Is(target error) bool { return target == ErrListen }

const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second
)

// A Listener accepts the local connections of one forward, or its datagrams.
type Listener struct {
	session   Session
	name      string // of the target, in events
	header    header // of its streams
	opts      Options
	allow     func() bool // asked for each connection, and each source of datagrams; nil allows all
	listeners []net.Listener
	sockets   []*net.UDPConn // instead, for datagrams
	waiting   waiting

	stop context.CancelFunc
	wg   sync.WaitGroup
}

// Listen listens where f says and gives each connection a stream of its own on s, until ctx is done
// or Close is called; then connections are reset. A refused stream resets its connection. The end of
// the session resets connections, and new ones as they come: it does not end the listener. Where Open waits for a
// session, so do 256 connections at most: another one resets the one that came first. One whose client has left is
// reset; one whose client has ended its direction, after 30 seconds.
//
// Where f is about datagrams each source has a flow instead, which ends after a minute of silence, or
// five once datagrams went both ways. Options.Flows bounds them.
//
// A local address that cannot be listened on gives a *ListenError.
func Listen(ctx context.Context, s Session, f Forward, opts Options) (*Listener, error) {
	l := &Listener{session: s, name: f.Target.String(), header: headerTo(f.Target), opts: opts}
	if err := l.listen(ctx, f); err != nil {
		return nil, err
	}
	if opts.OnListen != nil {
		opts.OnListen(l.Addr(), l.name)
	}
	l.start(ctx, l.serve)
	return l, nil
}

// listen opens the sockets.
func (l *Listener) listen(ctx context.Context, f Forward) (err error) {
	if f.Target.UDP {
		l.sockets, err = listenUDP(ctx, f)
	} else {
		l.listeners, err = listen(ctx, f)
	}
	return err
}

// start serves the sockets: connections by serve.
func (l *Listener) start(ctx context.Context, serve func(context.Context, net.Conn)) {
	ctx, l.stop = context.WithCancel(ctx)
	for _, n := range l.listeners {
		closing := context.AfterFunc(ctx, func() { _ = n.Close() })
		l.wg.Go(func() {
			defer closing()
			l.accept(ctx, n, serve)
		})
	}
	for _, n := range l.sockets {
		closing := context.AfterFunc(ctx, func() { _ = n.Close() })
		l.wg.Go(func() {
			defer closing()
			l.datagrams(ctx, n)
		})
	}
}

// Addr returns the real address, with the port that was chosen for port 0. For the loopback it is the
// IPv4 one.
func (l *Listener) Addr() net.Addr { return l.Addrs()[0] }

// Addrs returns all addresses listened at: the loopback may be two.
func (l *Listener) Addrs() []net.Addr {
	var addrs []net.Addr
	for _, n := range l.listeners {
		addrs = append(addrs, n.Addr())
	}
	for _, n := range l.sockets {
		addrs = append(addrs, n.LocalAddr())
	}
	return addrs
}

// Close stops listening, resets the connections that are open, and returns when all goroutines of the
// listener have ended. It may be called again.
func (l *Listener) Close() error {
	l.stop()
	for _, n := range l.listeners {
		_ = n.Close() // it may be closed already
	}
	for _, n := range l.sockets {
		_ = n.Close() // the same
	}
	l.wg.Wait()
	return nil
}

// accept serves n until it is closed. Want of file descriptors or memory passes: it waits and goes on.
func (l *Listener) accept(ctx context.Context, n net.Listener, serve func(context.Context, net.Conn)) {
	backoff := minBackoff
	for {
		c, err := n.Accept()
		switch {
		case err == nil:
			backoff = minBackoff
			if l.allow != nil && !l.allow() {
				abort(c)
				continue
			}
			l.wg.Go(func() { serve(ctx, c) })
			continue
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		}
		l.opts.logger().Warn("accept", slog.Any("addr", n.Addr()), slog.Any("err", err), slog.Duration("wait", backoff))
		if !sleep(ctx, backoff) {
			return
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func (l *Listener) serve(ctx context.Context, c net.Conn) {
	e := StreamEvent{Target: l.name, Peer: c.RemoteAddr().String()}
	st, err := l.waiting.open(ctx, l.session, l.header.encode(), c)
	if err != nil {
		abort(c)
		l.opts.stream(ended(e, 0, 0, err))
		return
	}
	sent, received, err := join(ctx, c.(conn), st, func() error {
		if err := st.WaitAccepted(ctx); err != nil {
			return err
		}
		open := e
		open.State = StateOpen
		l.opts.stream(open)
		return nil
	})
	l.opts.stream(ended(e, sent, received, err))
}

// listen opens the sockets of f.
func listen(ctx context.Context, f Forward) ([]net.Listener, error) {
	if f.Path != "" {
		l, err := listenUnix(ctx, f.Path)
		if err != nil {
			return nil, &ListenError{Addr: f.Path, Err: err}
		}
		return []net.Listener{l}, nil
	}
	var lc net.ListenConfig
	port := strconv.Itoa(f.Port)
	switch f.Bind {
	case "*":
		l, err := lc.Listen(ctx, "tcp", ":"+port)
		if err != nil {
			return nil, &ListenError{Addr: "*:" + port, Err: err}
		}
		return []net.Listener{l}, nil
	case "", "localhost":
		lc.KeepAlive = -1 // who is on this machine cannot vanish, and it costs four system calls each
		l4, err := lc.Listen(ctx, "tcp4", "127.0.0.1:"+port)
		if err != nil {
			return nil, &ListenError{Addr: "127.0.0.1:" + port, Err: err}
		}
		port = strconv.Itoa(l4.Addr().(*net.TCPAddr).Port)
		// Another program may hold the port there, or there may be no IPv6 at all.
		if l6, err := lc.Listen(ctx, "tcp6", "[::1]:"+port); err == nil {
			return []net.Listener{l4, l6}, nil
		}
		return []net.Listener{l4}, nil
	}
	addr := net.JoinHostPort(f.Bind, port)
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, &ListenError{Addr: addr, Err: err}
	}
	return []net.Listener{l}, nil
}
