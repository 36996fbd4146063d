package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Remotes are the places that this side has its peer listen at, for Offer.Remotes to know what comes back.
// Nil knows none.
//
//	this side                                     the peer
//	Listen ── stream: listen, id, place ────────> policy, listen, accept
//	  addr <── the address it got ────────────────
//	Serve  <── stream: return, id ─────────────── a connection there
//
// The peer listens for as long as the first stream is open. It ends what comes back with a reset of that
// stream, or with the session, and leaves it alone at the stream's proper end.
type Remotes struct {
	mu   sync.Mutex
	next uint32
	m    map[uint32]Target
}

// NewRemotes returns an empty set.
func NewRemotes() *Remotes { return &Remotes{m: make(map[uint32]Target)} }

func (r *Remotes) target(id uint32) (Target, bool) {
	if r == nil {
		return Target{}, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.m[id]
	return t, ok
}

// A RemoteListener is one place at which the peer listens.
type RemoteListener struct {
	set  *Remotes
	id   uint32
	st   Stream
	addr string
	once sync.Once
}

// Listen asks the peer to listen where f says, and returns when it does. Its connections come back
// as streams to f.Target, which Serve with these Remotes dials. A *RefusedError says that the peer's policy or its system
// does not let it.
func (r *Remotes) Listen(ctx context.Context, s Session, f Forward) (*RemoteListener, error) {
	if f.Target.IsDefault() {
		panic("tunnel: a remote forward without a target")
	}
	r.mu.Lock()
	r.next++
	id := r.next
	r.m[id] = f.Target // a connection may come before the answer is read
	r.mu.Unlock()
	m := &RemoteListener{set: r, id: id}
	place := f
	place.Target = Target{UDP: f.Target.UDP}
	st, err := s.Open(ctx, header{kind: kindListen, id: id, forward: place}.encode())
	if err != nil {
		m.forget()
		return nil, err
	}
	m.st = st
	if err := st.WaitAccepted(ctx); err != nil {
		_ = st.Reset(CodeCanceled) // it may be what failed
		m.forget()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = st.Reset(CodeCanceled) })
	defer stop()
	if m.addr, err = readPlace(st); err != nil {
		_ = st.Reset(CodeReset) // it makes no sense
		m.forget()
		return nil, fmt.Errorf("listen at the peer on %s: %w", place.Place(), err)
	}
	return m, nil
}

// Addr returns where the peer really listens: host:port, or the path of a unix socket.
func (m *RemoteListener) Addr() string { return m.addr }

// Wait returns when the peer listens no longer: nil after Close or the peer's own end, otherwise what failed.
func (m *RemoteListener) Wait() error {
	_, err := io.Copy(io.Discard, m.st)
	m.forget()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Close has the peer stop to listen, and does not wait for that. Connections that are open stay.
func (m *RemoteListener) Close() error {
	m.forget()
	return m.st.Close()
}

func (m *RemoteListener) forget() {
	m.once.Do(func() {
		m.set.mu.Lock()
		defer m.set.mu.Unlock()
		delete(m.set.m, m.id)
	})
}

// How often a place that is in use is tried again, and after how long.
const (
	inUseTries = 10
	inUseWait  = 50 * time.Millisecond
)

// listenSoon is listen for a peer that may have been started again: the session before may have ended just now, and be
// about to let go of the place.
func (l *Listener) listenSoon(ctx context.Context, f Forward) error {
	t := time.NewTimer(0)
	defer t.Stop()
	<-t.C
	for n := 1; ; n++ {
		err := l.listen(ctx, f)
		if err == nil || n == inUseTries || !inUse(err) {
			return err
		}
		t.Reset(inUseWait)
		select {
		case <-t.C:
		case <-ctx.Done():
			return err
		}
	}
}

// inUse reports whether err says that somebody else listens there. On Windows package syscall has another value for
// EADDRINUSE than the one the system returns.
func inUse(err error) bool {
	const wsaeaddrinuse = syscall.Errno(10048)
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, wsaeaddrinuse)
}

// serveListen listens for the peer, where the gate lets it, until the peer closes st.
func (o *Offer) serveListen(ctx context.Context, s Session, st Stream, h header, e StreamEvent, opts *Options) {
	f := h.forward
	if err := o.Gate.Allows(Remote, f.Place()); err != nil {
		refuse(st, e, err, opts)
		return
	}
	l := &Listener{session: s, name: f.Place(), header: header{kind: kindReturn, id: h.id}, opts: *opts}
	l.allow = func() bool { return o.Gate.Allows(Remote, f.Place()) == nil } // the rules may change
	if err := l.listenSoon(ctx, f); err != nil {
		refuse(st, e, &RefusedError{CodeUnreachable, err.Error()}, opts)
		return
	}
	l.start(ctx, l.serve)
	defer l.Close()
	if err := st.Accept(); err != nil {
		opts.stream(ended(e, 0, 0, err))
		return
	}
	defer st.Close()
	stop := context.AfterFunc(ctx, func() { _ = st.Reset(CodeCanceled) })
	defer stop()
	open := e
	open.State = StateOpen
	opts.stream(open)
	err := writePlace(st, l.Addr())
	if err == nil {
		_, err = io.Copy(io.Discard, st) // nothing comes but the end
	}
	if err == nil { // what is open stays, as long as the session does
		l.Drain()
		l.wg.Wait()
	}
	opts.stream(ended(e, 0, 0, err))
}

// writePlace tells where a listener listens: the size of the text, then the text.
func writePlace(w io.Writer, a net.Addr) error {
	text := a.String()
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(text))), text...))
	return err
}

func readPlace(r io.Reader) (string, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return "", err
	}
	n := binary.BigEndian.Uint16(size[:])
	if n == 0 || n > maxHeaderBytes {
		return "", fmt.Errorf("%w: an address of %d bytes", ErrHeader, n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", err
	}
	text := printable(string(b))
	if strings.TrimSpace(text) == "" {
		return "", fmt.Errorf("%w: an address that is none", ErrHeader)
	}
	return text, nil
}
